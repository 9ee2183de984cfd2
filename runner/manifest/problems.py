"""What is wrong with a manifest, put into words.

Owns the shape of a complaint (what, where, what to do next), the nearest valid word, and the order in which several
are told. Refuses to know what is valid: the other modules find the problems.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from runner.errors import ManifestError
from runner.tasks import Origin

Path = tuple[str | int, ...]
"""Where a value stands in a manifest: keys and list indexes from the top."""

UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]")
"""What YAML itself cannot hold, and what no prompt may, whichever way it came."""

HIDDEN = "…"
"""Stands for what of a URL is not shown: whoever knows all of a webhook's can post there."""
_URL = re.compile(r"(https?://)([^\s/?#'\"<>,\])}]*)[^\s'\"<>,\])}]*", re.IGNORECASE)

_MOST_LISTED = 9
_MOST_WORDS = 24
_MOST_WITH_NEAREST = 8


class Wrong(ValueError):
    """A value that cannot be used. `path` leads to it from the value under judgement; its finder adds the place.

    `at_key` puts the place on the key instead of its value; `word` narrows it to a word of the text.
    """

    def __init__(
        self, message: str, *, hint: str, path: Path = (), at_key: bool = False, word: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.path = path
        self.at_key = at_key
        self.word = word


def convert_at(path: Path, convert: Callable[..., Any], raw: object) -> Any:
    """Convert, and lead a complaint to `path`."""
    try:
        return convert(raw)
    except Wrong as wrong:
        wrong.path = (*path, *wrong.path)
        raise


@dataclass(frozen=True, slots=True)
class Problem:
    """One complaint with its place."""

    origin: Origin
    message: str
    hint: str

    def error(self) -> ManifestError:
        """The complaint as the error that a user meets."""
        return ManifestError(
            self.message,
            source=self.origin.source,
            line=self.origin.line,
            column=self.origin.column,
            hint=self.hint,
        )


def raise_for(problems: Iterable[Problem]) -> None:
    """Raise the first problem in file order, with the others listed under its hint; nothing if there are none.

    Values from the command line come first: they were typed last.

    Raises:
        ManifestError: there is a problem.
    """
    unique = list(dict.fromkeys(problems))
    if unique:
        _raise(unique)


def _raise(problems: list[Problem]) -> NoReturn:
    ordered = sorted(problems, key=lambda problem: (problem.origin.line or 0, problem.origin.column or 0))
    first, others = ordered[0].error(), [problem.error() for problem in ordered[1:]]
    lines = [f"{first.hint}"]
    lines += [f"  also {other.place}: {other.message} ({other.hint})" for other in others[:_MOST_LISTED]]
    if len(others) > _MOST_LISTED:
        lines.append(f"  and {len(others) - _MOST_LISTED} more")
    raise ManifestError(first.message, source=first.source, line=first.line, column=first.column, hint="\n".join(lines))


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that is nearest to `word`, or None if none is near."""
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[close[0]] if close else None


def suggest(word: str, known: Sequence[str], *, what: str) -> str:
    """A hint: the nearest word, and all that are valid; `what` introduces the list (`sizes of gpt-image-2`)."""
    listed = ", ".join(known[:_MOST_WORDS]) + (", ..." if len(known) > _MOST_WORDS else "")
    close = nearest(word, known)
    every = f"{what}: {listed}" if known else f"{what}: none"
    if close is None:
        return every
    return f"did you mean {close}?" if len(known) > _MOST_WITH_NEAREST else f"did you mean {close}? {every}"


def without_urls(text: str) -> str:
    """`text` with `https://host/…` for each URL in it that goes on after its host."""

    def shorter(found: re.Match[str]) -> str:
        host = found[2].rpartition("@")[2]
        return found[0] if found[0] == found[1] + host else f"{found[1]}{host}/{HIDDEN}"

    return _URL.sub(shorter, text) if "://" in text else text


def shown(value: object) -> str:
    """A value as it is quoted in a message: in one line, not long, and without what can be secret of a URL."""
    text = without_urls(str(value))
    return repr(text if len(text) <= 60 else text[:57] + "...")
