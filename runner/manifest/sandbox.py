"""The Jinja environment of prompts and names, locked down.

Owns the allow-lists of syntax, filters, tests and methods, and the bounds on what an expression can build. Everything
that is not listed is refused when the template is compiled, so that a manifest from a stranger can neither reach
Python's insides nor eat the machine. Refuses to know variables. Imported lazily, with Jinja.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

from jinja2 import StrictUndefined, TemplateSyntaxError, Undefined, meta, nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from runner.manifest.problems import Wrong, suggest
from runner.manifest.values import text_of

MAX_RANGE = 1000
MAX_TEXT_CHARS = 65_536
MAX_DIGITS = 100

_SYNTAX = (
    nodes.Template,
    nodes.Output,
    nodes.TemplateData,
    nodes.Name,
    nodes.Const,
    nodes.Getattr,
    nodes.Getitem,
    nodes.Filter,
    nodes.Test,
    nodes.If,
    nodes.CondExpr,
    nodes.For,
    nodes.Compare,
    nodes.Operand,
    nodes.And,
    nodes.Or,
    nodes.Not,
    nodes.Concat,
    nodes.Add,
    nodes.Sub,
    nodes.Mul,
    nodes.Div,
    nodes.FloorDiv,
    nodes.Mod,
    nodes.Neg,
    nodes.Pos,
    nodes.List,
    nodes.Tuple,
    nodes.Keyword,
    nodes.Slice,
    nodes.Call,
)
_FILTERS = [
    "abs",
    "capitalize",
    "d",
    "default",
    "first",
    "float",
    "int",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "max",
    "min",
    "replace",
    "reverse",
    "round",
    "slug",
    "sort",
    "string",
    "title",
    "trim",
    "truncate",
    "unique",
    "upper",
    "wordcount",
]
_TESTS = [
    "defined",
    "undefined",
    "none",
    "string",
    "number",
    "integer",
    "float",
    "even",
    "odd",
    "lower",
    "upper",
    "true",
    "false",
    "in",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
]
_TEXT_METHODS = frozenset(
    [
        "upper",
        "lower",
        "title",
        "capitalize",
        "swapcase",
        "casefold",
        "strip",
        "lstrip",
        "rstrip",
        "removeprefix",
        "removesuffix",
        "startswith",
        "endswith",
        "split",
        "rsplit",
        "splitlines",
        "count",
        "find",
        "index",
        "isdigit",
        "isalpha",
        "isupper",
        "islower",
        "replace",
    ]
)
_LOOP = frozenset(["index", "index0", "revindex", "revindex0", "first", "last", "length"])


class Row(dict[str, str]):
    """A row's columns: `row.title` and `row["Alt text"]` are columns, whatever they are called."""


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "*", "%"})

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, Row):
            return self.getitem(obj, attribute)
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(obj, Row):
            return obj[argument] if argument in obj else self.undefined(obj=obj, name=argument)
        return super().getitem(obj, argument)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str):
            return attr in _TEXT_METHODS
        return type(obj).__name__ == "LoopContext" and attr in _LOOP

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            raise SecurityError("% on text")
        if operator == "*":
            _check_product(left, right)
        result = super().call_binop(context, operator, left, right)
        return _check_size(result)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805 - Jinja's own signature
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str) and getattr(__obj, "__name__", "") == "replace" and len(args) >= 2:
            _check_replace(owner, args[0], args[1])
        return super().call(__context, __obj, *args, **kwargs)


def _check_product(left: Any, right: Any) -> None:
    for one, times in ((left, right), (right, left)):
        if isinstance(one, (str, list, tuple)) and isinstance(times, int) and len(one) * times > MAX_TEXT_CHARS:
            raise SecurityError(f"a product of more than {MAX_TEXT_CHARS} characters")


def _check_replace(text: str, old: Any, new: Any) -> None:
    hits = text.count(str(old)) if str(old) else len(text) + 1
    if len(text) + hits * len(str(new)) > MAX_TEXT_CHARS:
        raise SecurityError(f"a text of more than {MAX_TEXT_CHARS} characters")


def _check_size(result: Any) -> Any:
    if isinstance(result, (str, list, tuple)) and len(result) > MAX_TEXT_CHARS:
        raise SecurityError(f"a value of more than {MAX_TEXT_CHARS} characters")
    if isinstance(result, int) and result.bit_length() > MAX_DIGITS * 4:
        raise SecurityError(f"a number of more than {MAX_DIGITS} digits")
    return result


def _range(*args: int) -> range:
    numbers = range(*args)
    if len(numbers) > MAX_RANGE:
        raise SecurityError(f"a range of more than {MAX_RANGE} numbers")
    return numbers


def _join(values: Iterable[Any], d: str = "") -> str:
    listed = [text_of(value) for value in values]
    if sum(map(len, listed)) + len(d) * len(listed) > MAX_TEXT_CHARS:
        raise SecurityError(f"a text of more than {MAX_TEXT_CHARS} characters")
    return d.join(listed)


def _replace(text: Any, old: str, new: str) -> str:
    _check_replace(text_of(text), old, new)
    return text_of(text).replace(old, new)


def _int(value: Any, default: int = 0) -> int:
    try:
        return int(str(value)[:MAX_DIGITS])
    except ValueError:
        return default


def _slug(value: Any) -> str:
    from runner.manifest.naming import slug

    return slug(text_of(value))


@lru_cache
def _environment(finalize: Callable[[str], str] | None) -> _Environment:
    def write(value: Any) -> Any:
        if value is None or isinstance(value, (bool, int, float, str)):
            text = str(value) if isinstance(value, float) else text_of(value)
            return finalize(text) if finalize else text
        if isinstance(value, StrictUndefined):
            return value
        if isinstance(value, Undefined):  # `{{ a if b }}` without its else
            return ""
        raise TypeError(f"{type(value).__name__} cannot be written: name one of its parts")

    environment = _Environment(undefined=StrictUndefined, autoescape=False, finalize=write, keep_trailing_newline=True)
    for registry, allowed in ((environment.filters, _FILTERS), (environment.tests, _TESTS)):
        for name in set(registry) - set(allowed):
            del registry[name]
    environment.filters.update(join=_join, replace=_replace, int=_int, slug=_slug)
    environment.globals.clear()
    environment.globals["range"] = _range
    return environment


def compile_sandboxed(text: str, finalize: Callable[[str], str] | None) -> tuple[Any, frozenset[str]]:
    """(Jinja's template, the variables it uses).

    Raises:
        Wrong: a syntax error, or something that is not allowed.
    """
    if len(text) > MAX_TEXT_CHARS:
        raise Wrong(f"a template of more than {MAX_TEXT_CHARS:,} characters", hint="shorten it")
    environment = _environment(finalize)
    try:
        tree = environment.parse(text)
        _check_syntax(tree, loops=0)
        return environment.from_string(tree), frozenset(meta.find_undeclared_variables(tree) - {"range"})
    except Wrong:
        raise
    except TemplateSyntaxError as error:
        line = f" (line {error.lineno} of the text)" if "\n" in text.strip() else ""
        raise Wrong(
            f"the template is not valid: {error.message}{line}",
            hint="write {{ name }}; literal braces: {{ '{{' }}",
        ) from None
    except (RecursionError, MemoryError, SyntaxError):
        raise Wrong("the template is nested too deeply", hint="make it simpler") from None
    except (ArithmeticError, ValueError, TypeError, LookupError, SecurityError) as error:
        # Jinja computes constant expressions while it compiles.
        raise Wrong(f"the template fails: {error}", hint="check its expressions") from None


def _check_syntax(node: nodes.Node, *, loops: int) -> None:
    if not isinstance(node, _SYNTAX):
        name = type(node).__name__.lower()
        raise Wrong(
            f"a template here cannot use {'**' if name == 'pow' else name!r}",
            hint="use {{ expressions }}, {% if %} and one level of {% for %}",
        )
    if isinstance(node, nodes.For):
        if loops or node.recursive:
            raise Wrong("a template here cannot have a loop within a loop", hint="put the values into the matrix")
        loops += 1
    if isinstance(node, nodes.Filter) and node.name not in _FILTERS:
        raise Wrong(
            f"there is no filter {node.name!r}", hint=suggest(node.name, _FILTERS, what="filters"), word=node.name
        )
    if isinstance(node, nodes.Test) and node.name not in _TESTS:
        raise Wrong(f"there is no test {node.name!r}", hint=suggest(node.name, _TESTS, what="tests"), word=node.name)
    for child in node.iter_child_nodes():
        _check_syntax(child, loops=loops)
