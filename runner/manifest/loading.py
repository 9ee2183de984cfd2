"""A manifest's file or text to a `Manifest`.

Owns the sequence (YAML, overrides, schema, judgement) and the words for what Pydantic finds. Refuses to know the rules
themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from runner.catalog import Catalog
from runner.errors import InputError
from runner.manifest.checking import bind, problem
from runner.manifest.overriding import override
from runner.manifest.problems import Path as KeyPath
from runner.manifest.problems import Problem, Wrong, nearest, raise_for, shown, suggest
from runner.manifest.schema import Manifest, known_keys
from runner.manifest.sources import refuse_special
from runner.manifest.tree import Document
from runner.manifest.values import kind, unknown_key
from runner.manifest.yamltext import MAX_BYTES, compose, decode, to_data

_WANTED = {
    "name": ("the job has no `name`", "add one at the top, e.g. `name: spring-thumbnails`"),
    "prompts": ("there are no `prompts`", "add at least one, e.g. `prompts: [A lighthouse at dusk]`"),
    "text": ("the prompt has no `text`", 'write `text: "A lighthouse at dusk"`, or `file: prompts.csv`'),
    "usd": ("the budget has no `usd`", "write `budget: {usd: 5.00}`"),
}


def load(path: Path, *, overrides: Sequence[str] = (), catalog: Catalog) -> Manifest:
    """Read and judge a file; see `runner.manifest.load`."""
    path = Path(path)
    try:
        refuse_special(path)
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise InputError(f"there is no manifest {path}", hint=_beside(path)) from None
    except OSError as error:
        raise InputError(
            f"the manifest {path} cannot be read: {error.strerror or error}", hint="name a YAML file that you can read"
        ) from None
    text = decode(raw, str(path))
    return loads(text, source=str(path), base_dir=path.parent, overrides=overrides, catalog=catalog)


def _beside(path: Path) -> str:
    try:
        names = [entry.name for entry in path.parent.iterdir() if entry.suffix in (".yaml", ".yml")][:1000]
    except OSError:
        return "`runner init` writes a first manifest"
    close = nearest(path.name, names)
    return f"did you mean {path.parent / close}?" if close else "`runner init` writes a first manifest"


def loads(text: str, *, source: str, base_dir: Path, overrides: Sequence[str] = (), catalog: Catalog) -> Manifest:
    """Judge a text; see `runner.manifest.loads`."""
    document = override(compose(text, source), list(overrides))
    problems: list[Problem] = []
    try:
        manifest = Manifest.model_validate(to_data(document.root))
    except ValidationError as error:
        problems = list(_problems(error, document))
    # Out here, so that a traceback does not tell of Pydantic's error too: that repeats what it was given.
    raise_for(problems)
    bind(manifest, document, base_dir, catalog)
    return manifest


def _problems(error: ValidationError, document: Document) -> Iterator[Problem]:
    for found in error.errors(include_url=False):
        loc: KeyPath = tuple(part for part in found["loc"])
        path: KeyPath = tuple(part for part in loc if not (isinstance(part, str) and part.startswith("<")))
        yield problem(document, _in_words(found, loc), path)


def _in_words(found: Any, loc: KeyPath) -> Wrong:
    """One of Pydantic's complaints as ours. `found` is an entry of `ValidationError.errors()`."""
    what, context, given = found["type"], found.get("ctx", {}), found.get("input")
    reason = context.get("error")
    if isinstance(reason, Wrong):
        return reason
    key = str(loc[-1]) if loc else ""
    if what == "extra_forbidden":
        known = [name for name in known_keys(loc[:-1]) if name != "version" or key != "version"]
        return Wrong(f"unknown key {shown(key)}", hint=unknown_key(key, known), at_key=True)
    if what == "missing":
        message, hint = _WANTED.get(key, (f"the key `{key}` is missing", "add it"))
        if loc[0] == "renditions":
            message, hint = "the rendition has no `name`", "add one, e.g. `name: small`: its folder is called so"
        if key == "text" and isinstance(given, dict) and len(given) == 1 and not set(given) & set(known_keys(loc[:-1])):
            hint = 'a text with ": " in it is a mapping to YAML: quote it, "A sign: open"'
        return Wrong(message, hint=hint, at_key=True)
    if what == "literal_error":
        words = [word.strip("' ") for word in str(context.get("expected", "")).replace(" or ", ",").split(",")]
        written = given.text if hasattr(given, "text") else given
        if isinstance(written, str):
            return Wrong(f"{shown(written)} is no `{key}`", hint=suggest(written, words, what="it is one of"))
        return Wrong(f"{kind(given)} is no `{key}`", hint=f"it is one of: {', '.join(words)}")
    if what in ("model_type", "model_attributes_type", "dict_type"):
        hint = "write `key: value` pairs below it, indented"
        entry = f"an entry of `{loc[-2]}`" if key.isdigit() and len(loc) > 1 else f"`{key}`"
        return Wrong(f"{entry} must be a mapping, not {kind(given)}", hint=hint)
    if what in ("tuple_type", "list_type"):
        return Wrong(f"`{key}` must be a list, not {kind(given)}", hint="write `- item` lines, or [a, b]")
    bounds = {
        "greater_than_equal": ("at least", "ge", "write {} or more"),
        "greater_than": ("more than", "gt", "write a number above {}"),
        "less_than_equal": ("at most", "le", "write {} or less"),
    }
    if what in bounds:
        words_, name, hint = bounds[what]
        limit = context[name]
        limit = int(limit) if isinstance(limit, float) and limit == int(limit) else limit
        name_ = f"`{key}`" if not key.isdigit() else "it"
        return Wrong(f"{name_} must be {words_} {limit}, not {kind(given)}", hint=hint.format(limit))
    return Wrong(f"`{key}`: {found['msg']}", hint="see docs/manifest.md")
