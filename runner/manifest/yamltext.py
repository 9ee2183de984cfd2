"""YAML text to a tree of nodes that know their place.

Owns what YAML is accepted: one document, text in UTF-8, plain mappings, lists and scalars, aliases within bounds, no
tags that make objects. Refuses to know what the keys mean.

A plain scalar is null, true, false, a whole number or a decimal number only in the unmistakable spellings of YAML 1.2;
everything else (`no`, `on`, `2026-11-22`, `12:30`, `007`, `1024x1024`) is the text that was written. PyYAML's
parser gives the events; the tree is built here, because its own composer recurses, resolves YAML 1.1, forgets the
places of keys, and lets later duplicates win.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from runner.errors import ManifestError
from runner.manifest.problems import UNPRINTABLE
from runner.manifest.tree import Document, Mapping, Node, Scalar, Sequence, Written, place
from runner.tasks import Origin

MAX_BYTES = 16 * 1024 * 1024
MAX_NODES = 100_000
MAX_DEPTH = 64

_INT = re.compile(r"-?(?:0|[1-9][0-9]{0,18})")
_FLOAT = re.compile(r"-?(?:0|[1-9][0-9]{0,18})?\.[0-9]{1,18}(?:[eE][-+]?[0-9]{1,3})?|-?[0-9]{1,18}[eE][-+]?[0-9]{1,3}")
_PAIR = re.compile(r"[\ud800-\udbff][\udc00-\udfff]")
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_STR_TAGS = frozenset({"!", "tag:yaml.org,2002:str"})


def decode(raw: bytes, source: str) -> str:
    """The manifest's bytes as text.

    Raises:
        ManifestError: larger than `MAX_BYTES`, or not UTF-8.
    """
    if len(raw) > MAX_BYTES:
        raise ManifestError(
            f"a manifest of more than {MAX_BYTES // 1024**2} MiB",
            source=source,
            hint="put the prompts into a CSV, TSV, JSONL or TXT file and name it with `file:`",
        )
    hint = "save the file as UTF-8"
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ManifestError("the file is UTF-16, not UTF-8", source=source, line=1, column=1, hint=hint)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode("utf-8", "replace")
        at = place(before + "?", len(before), source)
        raise ManifestError(
            f"byte 0x{error.object[error.start]:02x} is not UTF-8",
            source=source,
            line=at.line,
            column=at.column,
            hint=hint,
        ) from None


def compose(text: str, source: str) -> Document:
    """The tree of a manifest: one document whose top is a mapping.

    Raises:
        ManifestError: not YAML, or YAML that is not accepted here; with its place.
    """
    text = text.removeprefix("\ufeff")
    root = Composer(text, source).document()
    if root is None:
        raise ManifestError(
            "the manifest is empty", source=source, line=1, column=1, hint="`runner init` writes a first manifest"
        )
    if not isinstance(root, Mapping):
        kind = "a list" if isinstance(root, Sequence) else "text"
        raise ManifestError(
            f"a manifest is a mapping of keys to values; this is {kind}",
            source=source,
            line=root.origin.line,
            column=root.origin.column,
            hint="begin with `name: my-job`, then `prompts:`",
        )
    return Document(root, source, text)


def compose_value(text: str, source: str) -> Node:
    """The tree of one value given elsewhere than in a file; its nodes have `source` as their only place.

    Raises:
        ManifestError: as `compose`.
    """
    root = Composer(text, source, placed=False).document()
    return root if root is not None else Scalar("", True, Origin(source))


def to_data(node: Node) -> Any:
    """The tree as dicts, lists, text, None and `Written`."""
    if isinstance(node, Mapping):
        return {key: to_data(value) for key, (_, value) in node.items.items()}
    if isinstance(node, Sequence):
        return [to_data(item) for item in node.items]
    return _resolve(node.text) if node.plain else node.text


def _resolve(text: str) -> Any:
    if text in _NULLS:
        return None
    if text in _BOOLS:
        return Written(text, _BOOLS[text])
    if _INT.fullmatch(text):
        return Written(text, int(text))
    if _FLOAT.fullmatch(text) and math.isfinite(value := float(text)):
        return Written(text, value)
    return text


@dataclass(slots=True)
class _Open:
    """A collection whose end has not come yet."""

    node: Sequence | Mapping
    anchor: str | None
    flow: bool
    key: tuple[str, Origin] | None = None
    merges: list[Node] = field(default_factory=list)
    merge_origin: Origin | None = None


def _paired(text: str) -> str:
    """JSON writes a character beyond U+FFFF as two escapes, and JSON is YAML: the two are made one again."""
    return _PAIR.sub(lambda pair: pair.group().encode("utf-16", "surrogatepass").decode("utf-16"), text)


class Composer:
    """Builds one document's tree from the parser's events, without recursion, and within bounds."""

    def __init__(self, text: str, source: str, *, placed: bool = True) -> None:
        self._text = text
        self._source = source
        self._placed = placed
        self._stack: list[_Open] = []
        self._anchors: dict[str, Node | None] = {}
        self._root: Node | None = None
        self._count = 0

    def document(self) -> Node | None:
        """The root, or None for a text without a document.

        Raises:
            ManifestError: not valid, with its place.
        """
        hit = UNPRINTABLE.search(self._text)
        if hit:
            raise self._error(
                f"the character U+{ord(hit.group()):04X} cannot stand in a manifest",
                place(self._text, hit.start(), self._source),
                "remove it; it is probably left from copying or from a broken file",
            )
        documents = 0
        for event in self._events():
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise self._error(
                        "a second document begins here",
                        self._origin(event),
                        "a manifest is one document: put each into a file of its own",
                    )
            else:
                self._take(event)
        root = self._root
        return None if isinstance(root, Scalar) and root.plain and root.text == "" else root

    def _events(self) -> Iterator[Any]:
        from runner.manifest.yamlerrors import explain

        loader: Any = yaml.SafeLoader(self._text)
        try:
            while loader.check_event():
                yield loader.get_event()
        except yaml.MarkedYAMLError as error:
            message, index, hint = explain(error, self._text)
            raise self._error(message, place(self._text, index, self._source), hint) from None
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            # A number in a directive, or the escape of a character that there is none of: the parser stands before it.
            at: Any = loader.get_mark()
            raise self._error(
                f"not YAML: {error}", Origin(self._source, at.line + 1, at.column + 1), "see docs/manifest.md"
            ) from None
        finally:
            loader.dispose()

    def _take(self, event: Any) -> None:
        if isinstance(event, yaml.AliasEvent):
            self._alias(event)
        elif isinstance(event, yaml.ScalarEvent):
            self._check_tag(event)
            self._scalar(event)
        elif isinstance(event, (yaml.SequenceStartEvent, yaml.MappingStartEvent)):
            self._check_tag(event)
            self._open(event)
        elif isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
            self._close()

    def _open(self, event: Any) -> None:
        origin = self._origin(event)
        if len(self._stack) >= MAX_DEPTH:
            raise self._error(f"nested more than {MAX_DEPTH} deep", origin, "a manifest needs no such depth")
        self._complex_key(origin, flow_mapping=isinstance(event, yaml.MappingStartEvent) and bool(event.flow_style))
        node = Sequence([], origin) if isinstance(event, yaml.SequenceStartEvent) else Mapping({}, origin)
        if event.anchor:
            self._anchors[event.anchor] = None
        self._stack.append(_Open(node, event.anchor, bool(event.flow_style)))

    def _close(self) -> None:
        top = self._stack.pop()
        if isinstance(top.node, Mapping):
            self._merge(top, top.node)
        if top.anchor:
            self._anchors[top.anchor] = top.node
        self._add(top.node, top.node.origin)

    def _scalar(self, event: Any) -> None:
        origin = self._origin(event)
        text = _paired(event.value) if event.style == '"' else event.value
        hit = UNPRINTABLE.search(text)
        if hit:
            raise self._error(
                f"the escaped character U+{ord(hit.group()):04X} cannot stand in a manifest", origin, "remove it"
            )
        start, end = (event.start_mark.index, event.end_mark.index) if self._placed else (None, None)
        plain = event.style is None and event.tag is None
        node = Scalar(text, plain, origin, start, end)
        if event.anchor:
            self._anchors[event.anchor] = node
        top = self._stack[-1] if self._stack else None
        if top and isinstance(top.node, Mapping) and top.key is None:
            self._take_key(top, node)
        else:
            self._add(node, origin)

    def _alias(self, event: Any) -> None:
        origin = self._origin(event)
        if event.anchor not in self._anchors:
            raise self._error(
                f"the alias *{event.anchor} has no anchor before it",
                origin,
                f"mark what it means with &{event.anchor}; text that begins with * must be quoted",
            )
        node = self._anchors[event.anchor]
        if node is None:
            raise self._error(f"the alias *{event.anchor} contains itself", origin, "write the value out")
        top = self._stack[-1] if self._stack else None
        if top and isinstance(top.node, Mapping) and top.key is None:
            if not isinstance(node, Scalar):
                self._complex_key(origin, flow_mapping=False)
            assert isinstance(node, Scalar)
            self._take_key(top, Scalar(node.text, node.plain, origin))
        else:
            self._add(node, origin)

    def _take_key(self, top: _Open, node: Scalar) -> None:
        assert isinstance(top.node, Mapping)
        earlier = top.node.items.get(node.text)
        if node.plain and node.text == "<<":
            if top.merge_origin is not None:
                raise self._error("a second << in one mapping", node.origin, "give << a list: <<: [*a, *b]")
            top.merge_origin = node.origin
        elif earlier:
            first = earlier[0]
            raise self._error(
                f"the key {node.text!r} stands twice in one mapping"
                + (f", first in line {first.line}, column {first.column}" if first.line else ""),
                node.origin,
                "remove one of the two, or make them one",
            )
        top.key = (node.text, node.origin)

    def _add(self, node: Node, origin: Origin) -> None:
        self._count += 1
        if not self._stack:
            self._root = node
            self._bound(node, origin)
            return
        top = self._stack[-1]
        parent = top.node
        parent.size += node.size
        parent.height = max(parent.height, node.height + 1)
        if isinstance(parent, Sequence):
            parent.items.append(node)
        else:
            assert top.key is not None
            key, key_origin = top.key
            top.key = None
            if key == "<<" and key_origin is top.merge_origin:
                top.merges.append(node)
            else:
                parent.items[key] = (key_origin, node)
        self._bound(parent, origin)

    def _merge(self, top: _Open, into: Mapping) -> None:
        """`<<: *base` adds the keys that are not there; of several, the earlier wins."""
        for given in top.merges:
            for one in given.items if isinstance(given, Sequence) else [given]:
                if not isinstance(one, Mapping):
                    assert top.merge_origin is not None
                    raise self._error("<< takes a mapping, or a list of them", top.merge_origin, "e.g. <<: *base")
                for key, value in one.items.items():
                    into.items.setdefault(key, value)

    def _bound(self, node: Node, origin: Origin) -> None:
        if node.size > MAX_NODES or self._count > MAX_NODES:
            raise self._error(
                f"more than {MAX_NODES:,} values, once its aliases are written out",
                origin,
                "put many prompts into a CSV, TSV, JSONL or TXT file and name it with `file:`",
            )
        if node.height > MAX_DEPTH:
            raise self._error(f"nested more than {MAX_DEPTH} deep", origin, "a manifest needs no such depth")

    def _complex_key(self, origin: Origin, *, flow_mapping: bool) -> None:
        top = self._stack[-1] if self._stack else None
        if top and isinstance(top.node, Mapping) and top.key is None:
            if flow_mapping and top.flow:
                raise self._error(
                    "text that begins with {{ is a mapping to YAML", top.node.origin, 'quote it: "{{ name }} ..."'
                )
            raise self._error("a key must be a word, not a list or a mapping", origin, "write `key: value`")

    def _check_tag(self, event: Any) -> None:
        if event.tag is None or (event.tag in _STR_TAGS and isinstance(event, yaml.ScalarEvent)):
            return
        tag = event.tag.replace("tag:yaml.org,2002:", "!!")
        why = "tags that make objects are refused" if "python" in tag else "tags are not used here"
        raise self._error(f"the tag {tag}: {why}", self._origin(event), "write the plain value without a tag")

    def _origin(self, event: Any) -> Origin:
        mark = event.start_mark
        return Origin(self._source, mark.line + 1, mark.column + 1) if self._placed else Origin(self._source)

    def _error(self, message: str, origin: Origin, hint: str) -> ManifestError:
        line, column = (origin.line, origin.column) if self._placed else (None, None)
        return ManifestError(message, source=self._source, line=line, column=column, hint=hint)
