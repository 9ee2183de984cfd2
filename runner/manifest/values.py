"""The kinds of value that a manifest holds, and how each is read from what was written.

Owns the conversion of YAML scalars to typed values, and the complaint when one does not fit. Refuses to know which key
takes which kind: that is `schema`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from runner.manifest.naming import is_device_name, slug
from runner.manifest.problems import Wrong, nearest, shown, suggest
from runner.manifest.tree import Written
from runner.tasks import REQUEST_FIELDS

INPUT_AXES = ("image", "mask")
"""Axes of the matrix, and variables of templates, that are what an edit starts from."""


@dataclass(frozen=True, slots=True)
class MaskEntry:
    """A mask as it was written: a file, a box or a polygon. None is what the edit says for all of its masks."""

    file: str | None = None
    box: tuple[int, int, int, int] | None = None
    polygon: tuple[tuple[int, int], ...] | None = None
    mask_mode: str | None = None
    resize: bool | None = None
    feather: int | None = None

    @property
    def text(self) -> str:
        """The mask in one line, another for each that differs."""
        shape = self.file
        if self.box is not None:
            shape = f"box({','.join(map(str, self.box))})"
        elif self.polygon is not None:
            shape = f"polygon({' '.join(f'{x},{y}' for x, y in self.polygon)})"
        words = [shape or ""]
        words += [f"mask_mode={self.mask_mode}"] if self.mask_mode is not None else []
        words += [f"resize={text_of(self.resize)}"] if self.resize is not None else []
        words += [f"feather={self.feather}"] if self.feather is not None else []
        return " ".join(words)


Value = str | int | bool | MaskEntry | None
"""A matrix value or a variable. Numbers with a point stay the text that was written (None: output_compression); a
`MaskEntry` is a value of the axis `mask` alone."""

_NAME_WORDS = frozenset({"prompt_id", "sample", "index", "key8", "edition", "text", "row"})
_TEMPLATE_WORDS = frozenset(
    [
        "true",
        "false",
        "none",
        "True",
        "False",
        "None",
        "and",
        "or",
        "not",
        "in",
        "is",
        "if",
        "else",
        "elif",
        "endif",
        "for",
        "endfor",
        "loop",
        "range",
        "self",
    ]
)
_MATRIX_WORDS = frozenset({"exclude", "include", "zip"})
_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


def kind(raw: object) -> str:
    """What was written, as a person calls it."""
    if raw is None:
        return "nothing"
    if isinstance(raw, dict):
        return "a mapping"
    if isinstance(raw, (list, tuple)):
        return "a list"
    return shown(raw.text if isinstance(raw, Written) else raw)


def as_text(raw: object) -> object:
    """Text, exactly as it was written: `007`, `2026-11-22`, `on` and `1.50` keep their spelling."""
    if isinstance(raw, str):
        return raw
    if isinstance(raw, Written):
        return raw.text
    if isinstance(raw, bool):
        return "true" if raw else "false"
    if isinstance(raw, (int, Decimal)):
        return str(raw)
    if raw is None:
        raise Wrong("text is missing", hint="write a value after the colon, or remove the key")
    raise Wrong(f"text is wanted, not {kind(raw)}", hint='a text with signs such as { [ # : must be quoted: "..."')


def as_int(raw: object) -> object:
    """A whole number."""
    value = raw.value if isinstance(raw, Written) else raw
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise Wrong(f"a whole number is wanted, not {kind(raw)}", hint="write digits only, e.g. 8")


def as_bool(raw: object) -> object:
    """A truth value."""
    value = raw.value if isinstance(raw, Written) else raw
    if isinstance(value, bool):
        return value
    raise Wrong(f"true or false is wanted, not {kind(raw)}", hint="write true or false")


def as_float(raw: object) -> object:
    """A finite number."""
    value = raw.value if isinstance(raw, Written) else raw
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    raise Wrong(f"a number is wanted, not {kind(raw)}", hint="write digits, e.g. 50 or 0.5")


def as_decimal(raw: object) -> object:
    """An exact number of dollars, taken from the text and not through binary floating point."""
    if isinstance(raw, Decimal):
        return raw
    text = raw.text if isinstance(raw, Written) else str(raw) if isinstance(raw, (str, int, float)) else ""
    try:
        value = Decimal(text) if not isinstance(raw, bool) and re.fullmatch(r"-?[0-9.]{1,30}", text) else None
    except InvalidOperation:
        value = None
    if value is None:
        raise Wrong(f"an amount in dollars is wanted, not {kind(raw)}", hint="write digits only, e.g. 5.00")
    return value


def as_value(raw: object) -> Value:
    """A variable: text, a whole number, true or false; a number with a point stays text."""
    if isinstance(raw, Written):
        return raw.text if isinstance(raw.value, float) else raw.value
    if isinstance(raw, (str, bool, int)):
        return raw
    if raw is None:
        raise Wrong("the value is missing", hint='write "" for an empty text')
    raise Wrong(f"text, a number, true or false is wanted, not {kind(raw)}", hint="write one plain value")


def field_value(name: str, raw: object) -> Value:
    """The value of an API field or of an own variable, by its name."""
    if name == "output_compression":
        if raw is None:
            return None
        value = as_int(raw)
        assert isinstance(value, int)
        return value
    if name in REQUEST_FIELDS:
        text = as_text(raw)
        assert isinstance(text, str)
        return text
    return as_value(raw)


def text_of(value: Value) -> str:
    """A value as text, for names, reports and templates."""
    if isinstance(value, str):
        return value
    if value is None:
        return "none"
    if isinstance(value, MaskEntry):
        return value.text
    return str(value).lower() if isinstance(value, bool) else str(value)


def check_variable_name(name: str, *, axis: bool, at: tuple[str | int, ...] = ()) -> None:
    """Raise Wrong unless `name` can be a template variable (and, with `axis`, an axis of the matrix)."""
    path = (*at, name)
    if not _IDENTIFIER.fullmatch(name):
        raise Wrong(
            f"{name!r} cannot be a variable's name",
            hint="a letter, then letters, digits and _ (at most 64)",
            path=path,
            at_key=True,
        )
    taken = name in _NAME_WORDS or name in _TEMPLATE_WORDS or name in _MATRIX_WORDS
    if taken or (not axis and name in (*REQUEST_FIELDS, *INPUT_AXES)):
        where = "it is a setting: put it under `settings`" if name in REQUEST_FIELDS else "choose another name"
        if name in INPUT_AXES:
            where = (
                f"it is what an edit starts from: see `edit` and `matrix: {{{name}: [...]}}`; or choose another name"
            )
        raise Wrong(f"the name {name!r} is taken", hint=where, path=path, at_key=True)


def safe_job_name(name: str) -> str:
    """The job's name, if it can be a folder's name everywhere.

    Raises:
        Wrong: it cannot; the hint has a name that can.
    """
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", name) and not is_device_name(name) and name[-1] != ".":
        return name
    better = slug(name, most=100) or "my-job"
    raise Wrong(
        f"the job's name {shown(name)} cannot be a folder's name",
        hint=f"letters, digits, '.', '_', '-', at most 100, beginning with a letter or digit; e.g. "
        f"{better if not is_device_name(better) else better + '-job'}",
    )


def bucket_url(url: str) -> str:
    """The URL of a bucket and a prefix in it; a folder is none, and neither is what has a secret in it.

    Raises:
        Wrong: it is none.
    """
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s@?#]+", url):
        return url
    # Without the text: a key may stand in it.
    raise Wrong(
        "this is no URL of a bucket",
        hint="e.g. s3://bucket/prefix, without user, key or query; a folder is chosen with --output or RUNNER_OUTPUT",
    )


def unknown_key(key: str, known: list[str]) -> str:
    """The hint for a key that does not exist."""
    if nearest(key, known) is None or key in _ELSEWHERE:
        elsewhere = nearest(key, _ELSEWHERE)
        if elsewhere is not None and elsewhere not in known:
            return _ELSEWHERE[elsewhere]
    return suggest(key, known, what="keys here")


_ELSEWHERE = {
    **{name: f"`{name}` goes under `settings` (one value) or `matrix` (several)" for name in REQUEST_FIELDS[1:]},
    "model": "`model` stands at the top level, under a prompt's `settings`, or in `matrix`",
    "usd": "write `budget: {usd: 5.00}`",
    "prompt": "write `prompts:` at the top level, and `text:` within a prompt",
    "n": "use `samples` for several images of one request",
    **{name: f"`{name}` goes under `edit`" for name in ("images", "references", "mask", "composite", "prepare")},
    **{name: f"`{name}` goes under `matrix`" for name in ("exclude", "include", "zip")},
    **{name: f"`{name}` goes under `limits`" for name in ("concurrency", "images_per_minute", "tier")},
    **{name: f"`{name}` goes under `batch`" for name in ("max_requests", "fall_back", "after")},
}
