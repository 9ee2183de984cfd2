"""The tree of a YAML text: nodes that know their place.

Owns the nodes, and the way from a key's path to a line and a column. Refuses to parse.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass, field

from runner.manifest.problems import Path
from runner.tasks import Origin

_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class Written:
    """A plain scalar that reads as a number or a truth value, with the text that was written."""

    text: str
    value: bool | int | float


@dataclass(slots=True)
class Scalar:
    """A leaf. `start` and `end` are its character offsets in the document (None for a value from elsewhere)."""

    text: str
    plain: bool
    origin: Origin
    start: int | None = None
    end: int | None = None
    size: int = 1
    height: int = 1


@dataclass(slots=True)
class Sequence:
    """A list. `size` counts the nodes below it with every alias written out; `height` their depth."""

    items: list[Node]
    origin: Origin
    size: int = 1
    height: int = 1


@dataclass(slots=True)
class Mapping:
    """A mapping, in the order written, each key with its place."""

    items: dict[str, tuple[Origin, Node]]
    origin: Origin
    size: int = 1
    height: int = 1


Node = Scalar | Sequence | Mapping


@dataclass(slots=True)
class Document:
    """A manifest's tree, and the text it came from."""

    root: Mapping
    source: str
    text: str
    _starts: list[int] = field(default_factory=list, compare=False)
    """Where each line begins, found once: a manifest can have as many mistakes as lines."""

    def node(self, path: Path) -> Node:
        """The node at `path`, or the nearest one above it that exists.

        An index 0 or a key that a short form leaves out (`prompts: A cat`) stays at the short form's value.
        """
        found: Node = self.root
        for part in path:
            below = _step(found, part)
            if below is None:
                break
            found = below[1]
        return found

    def origin(self, path: Path, *, at_key: bool = False) -> Origin:
        """Where the value at `path` stands (with `at_key`, where its key does), or the nearest one above it."""
        found: Node = self.root
        origin = found.origin
        for part in path:
            below = _step(found, part)
            if below is None:
                break
            key_origin, found = below
            origin = key_origin if at_key else found.origin
        return origin

    def word_origin(self, path: Path, word: str) -> Origin:
        """Where `word` first stands within a template expression of the text at `path`, or where the text does."""
        node = self.node(path)
        if not isinstance(node, Scalar) or node.start is None or node.end is None or not word:
            return node.origin
        signs = re.compile(r"(?P<opens>\{[{%])|(?P<closes>[}%]\})|(?<!\w)" + re.escape(word) + r"(?!\w)")
        inside = False
        # One pass: a text of nothing but openings must not be searched to its end from each of them.
        for hit in signs.finditer(self.text, node.start, node.end):
            if hit.lastgroup:
                inside = hit.lastgroup == "opens"
            elif inside:
                return self._place(hit.start())
        return node.origin

    def _place(self, index: int) -> Origin:
        if not self._starts:
            self._starts = [0, *(hit.end() for hit in _BREAK.finditer(self.text))]
        line = bisect_right(self._starts, index)
        return Origin(self.source, line, index - self._starts[line - 1] + 1)


def _step(node: Node, part: str | int) -> tuple[Origin, Node] | None:
    if isinstance(node, Mapping) and isinstance(part, str):
        return node.items.get(part)
    if isinstance(node, Sequence) and isinstance(part, int):
        return (node.items[part].origin, node.items[part]) if 0 <= part < len(node.items) else None
    return (node.origin, node) if part == 0 else None


def place(text: str, index: int, source: str) -> Origin:
    """Line and column of a character offset, counted as YAML counts lines."""
    line, start = 1, 0
    for hit in _BREAK.finditer(text, 0, index):
        if hit.end() > index:
            break
        line, start = line + 1, hit.end()
    return Origin(source, line, index - start + 1)
