"""`--set KEY=VALUE`: values from the command line laid over a manifest's tree.

Owns the dotted path and where it may lead. Refuses to judge the value: that is the schema's, which then names the
`--set` as the value's place. Nothing of the original tree is changed, since aliases share parts of it.
"""

from __future__ import annotations

from dataclasses import replace

from runner.errors import InputError, ManifestError
from runner.manifest.problems import suggest, without_urls
from runner.manifest.schema import Manifest
from runner.manifest.tree import Document, Mapping, Node, Scalar, Sequence
from runner.manifest.yamltext import compose_value
from runner.tasks import Origin

_SHAPE = "write --set KEY=VALUE, e.g. --set matrix.quality=[high] or --set prompts.0.text='A cat'"


def override(document: Document, words: tuple[str, ...] | list[str]) -> Document:
    """The document with every `KEY=VALUE` applied, in order.

    Raises:
        InputError: a word that is not `KEY=VALUE`, or a path that leads nowhere.
    """
    for word in words:
        document = _apply(document, word)
    return document


def _apply(document: Document, word: str) -> Document:
    source = f"--set {without_urls(word)}"
    key, equals, text = word.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise InputError(f"{source}: not KEY=VALUE", hint=_SHAPE)
    if parts[0] not in Manifest.model_fields:
        known = list(Manifest.model_fields)
        raise InputError(f"{source}: there is no key {parts[0]!r}", hint=suggest(parts[0], known, what="keys"))
    try:
        value = compose_value(text, source)
    except ManifestError as error:
        raise InputError(f"{source}: the value is not valid: {error.message}", hint=error.hint) from None
    root = _put(document.root, parts, (), value, source)
    assert isinstance(root, Mapping)
    return replace(document, root=root)


def _put(node: Node, parts: list[str], done: tuple[str, ...], value: Node, source: str) -> Node:
    if not parts:
        return value
    part, rest = parts[0], parts[1:]
    origin = Origin(source)
    node = _long_form(node, done, part)
    if isinstance(node, Mapping):
        items = dict(node.items)
        old_key, old = items.get(part, (origin, None))
        below = old if old is not None else Mapping({}, origin)
        items[part] = (old_key if rest and old is not None else origin, _put(below, rest, (*done, part), value, source))
        return Mapping(items, node.origin)
    if isinstance(node, Sequence):
        entries = list(node.items)
        index = int(part) if part.isascii() and part.isdigit() and len(part) < 7 else -1
        if not 0 <= index <= len(entries):
            count = f"0 to {len(entries) - 1}, or {len(entries)} to add one" if entries else "0 adds the first"
            raise InputError(
                f"{source}: {'.'.join(done)} is a list, and has no entry {part!r}", hint=f"entries: {count}"
            )
        if index == len(entries):
            entries.append(Mapping({}, origin))
        entries[index] = _put(entries[index], rest, (*done, part), value, source)
        return Sequence(entries, node.origin)
    raise InputError(
        f"{source}: {'.'.join(done)} is one value, and has no {part!r} in it",
        hint=f"set it as a whole: --set {'.'.join(done)}=...",
    )


def _long_form(node: Node, done: tuple[str, ...], part: str) -> Node:
    """What a short form stands for, where the path goes into it."""
    is_index = part.isascii() and part.isdigit()
    if done == ("prompts",) and is_index and not isinstance(node, Sequence):
        return Sequence([] if isinstance(node, Mapping) and not node.items else [node], node.origin)
    is_empty = isinstance(node, Scalar) and node.plain and node.text in ("", "~", "null")
    if is_index and done[-2:] in (("edit", "images"), ("edit", "references")) and not isinstance(node, Sequence):
        return Sequence([] if is_empty or isinstance(node, Mapping) else [node], node.origin)
    if isinstance(node, Scalar):
        if is_empty:
            return Mapping({}, node.origin)
        if done[-2:] == ("edit", "mask"):
            return Mapping({"file": (node.origin, node)}, node.origin)
        if done == ("budget",):
            return Mapping({"usd": (node.origin, node)}, node.origin)
        if done[:1] == ("prompts",) and len(done) == 2 and not is_index:
            return Mapping({"text": (node.origin, node)}, node.origin)
    return node
