"""PyYAML's complaints in words that someone who does not know YAML can act on.

Owns the translation and the place that is pointed at. Refuses to know what a manifest means.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

_TEMPLATE_VALUE = re.compile(r"^[ \t]*(?:- +)*(?:[\w.-]+:[ \t]+)?(?:- +)*\{\{")
_QUOTE_HINT = 'quote the text: "..."'


def explain(error: yaml.MarkedYAMLError, text: str) -> tuple[str, int, str]:
    """(what is wrong, character offset of the place, what to do) for an error of the scanner or the parser."""
    problem, context = error.problem or "", error.context or ""
    mark: Any = error.problem_mark or error.context_mark
    index = min(mark.index if mark else 0, len(text))
    opened: Any = error.context_mark
    if _begins_with_braces(text, index):
        return "text that begins with {{ is a mapping to YAML", _braces(text, index), 'quote it: "{{ name }} ..."'
    if "'\\t'" in problem:
        return "a tab cannot indent YAML", index, "use spaces"
    if "found unexpected end of stream" in problem and "quoted scalar" in context and opened:
        return "a quote is opened and not closed", opened.index, "close it, or remove it"
    if problem.startswith("mapping values are not allowed"):
        return "a ':' where no key can stand", index, f'text with ": " in it must be quoted; {_QUOTE_HINT}'
    if "could not find expected ':'" in problem:
        at = opened.index if opened else index
        return "a key without its ':'", at, "write `key: value`; or check the indentation of this line"
    if "expected ',' or ']'" in problem and opened:
        return "a list is opened with '[' and not closed", opened.index, "close it with ']', with ',' between its items"
    if "expected ',' or '}'" in problem and opened:
        return (
            "a mapping is opened with '{' and not closed",
            opened.index,
            "close it with '}', with ',' between its keys",
        )
    if problem.startswith("expected <block end>"):
        return (
            "this line does not fit its neighbours",
            index,
            "lines of one level begin in the same column; text after a closing quote must be inside the quotes",
        )
    if "cannot start any token" in problem:
        sign = text[index : index + 1]
        return f"text cannot begin with {sign!r} in YAML", index, _QUOTE_HINT
    if "escape" in context or "escape" in problem or "unknown escape" in problem:
        return (
            f"not an escape in a double-quoted text: {problem}",
            index,
            "write \\\\ for a backslash, or use 'single quotes'",
        )
    if "tag handle" in problem or "tag" in context:
        return "tags are not used here", index, "text that begins with ! must be quoted"
    if "anchor" in context or "alias" in context:
        return f"not an anchor or alias: {problem}", index, "text that begins with & or * must be quoted"
    return f"not YAML: {problem}", index, "check the indentation, and quote text with signs such as : # { [ in it"


def _line_bounds(text: str, index: int) -> tuple[int, int]:
    end = text.find("\n", index)
    return text.rfind("\n", 0, index) + 1, len(text) if end < 0 else end


def _begins_with_braces(text: str, index: int) -> bool:
    start, end = _line_bounds(text, index)
    return bool(_TEMPLATE_VALUE.match(text[start:end]))


def _braces(text: str, index: int) -> int:
    start, end = _line_bounds(text, index)
    return text.index("{{", start, end)
