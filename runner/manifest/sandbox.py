"""The Jinja environment of prompts and names, locked down.

Owns the allow-lists of syntax, filters, tests and methods, and the bounds on what an expression can build. Everything
that is not listed is refused when the template is compiled, so that a manifest from a stranger can neither reach
Python's insides nor eat the machine. Refuses to know variables. Imported lazily, with Jinja.

Every rendering has a meter of its own (`metering`), which operators, filters, calls and loops charge before they work;
nothing is computed while a template is compiled, where there is no meter yet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from jinja2 import StrictUndefined, TemplateSyntaxError, Undefined, meta, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.filters import do_round
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from runner.manifest.metering import CHARS_A_NODE, Meter, is_plain, weight
from runner.manifest.pictures import PARTS, Picture
from runner.manifest.problems import Wrong, suggest
from runner.manifest.values import text_of

MAX_RANGE = 1000
MAX_TEXT_CHARS = 65_536
MAX_DIGITS = 100
MAX_PRECISION = 20

# Names that no template can write.
_METER = "<meter>"
_LOOP_FILTER = "<loop>"
_CONCAT_FILTER = "<concat>"

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


_ORDERING = frozenset(["max", "min", "sort", "unique"])
_WANTS_ENVIRONMENT = frozenset(["first", "last", "truncate", *_ORDERING])
"""Jinja's own filters that are called with the environment."""
_OF_LISTS = frozenset(["first", "join", "last", "length", "list", "reverse", "default", "d", *_ORDERING])
"""Filters that take a list; all the others take one plain value."""


class Row(dict[str, str]):
    """A row's columns: `row.title` and `row["Alt text"]` are columns, whatever they are called."""


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "*", "%"})

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, Row):
            return self.getitem(obj, attribute)
        if isinstance(obj, Picture) and attribute not in _TEXT_METHODS:
            return self.getitem(obj, attribute)
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(obj, Row):
            return obj[argument] if argument in obj else self.undefined(obj=obj, name=argument)
        if isinstance(obj, Picture) and isinstance(argument, str):
            return getattr(obj, argument) if argument in PARTS else self.undefined(obj=obj, name=argument)
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
        result = _check_size(super().call_binop(context, operator, left, right))
        context[_METER].charge(weight(result))
        return result

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805 - Jinja's own signature
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str) and getattr(__obj, "__name__", "") == "replace" and len(args) >= 2:
            _check_replace(owner, args[0], args[1])
        meter = __context[_METER]
        meter.charge(CHARS_A_NODE + weight(owner))
        result = super().call(__context, __obj, *args, **kwargs)
        meter.charge(weight(result))
        return result


def _check_product(left: Any, right: Any) -> None:
    for one, times in ((left, right), (right, left)):
        if isinstance(one, (str, list, tuple)) and isinstance(times, int) and len(one) * times > MAX_TEXT_CHARS:
            raise SecurityError(f"a product of more than {MAX_TEXT_CHARS} characters")
        if isinstance(one, (list, tuple)) and not all(map(is_plain, one)):
            raise SecurityError("a product of lists within lists")


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


def _round(value: Any, precision: int = 0, method: str = "common") -> Any:
    if abs(precision) > MAX_PRECISION:
        raise SecurityError(f"a precision of more than {MAX_PRECISION} digits")
    return do_round(value, precision, method)  # type: ignore[arg-type]  # it judges the method itself


def _concat(values: list[Any]) -> str:
    return _join(values)


def _metered(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that pays before it works, and that takes what it is for: text made of a list is made without bounds."""

    @pass_context
    def paid(context: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(value, (list, tuple)) and name in _ORDERING and not all(map(is_plain, value)):
            raise TypeError(f"{name} takes a list of plain values")
        if name not in _OF_LISTS and name != _CONCAT_FILTER and not is_plain(value):
            raise TypeError(f"{name} takes one plain value")
        context[_METER].charge(CHARS_A_NODE + weight(value))
        arguments = (context.environment, value) if name in _WANTS_ENVIRONMENT else (value,)
        result = work(*arguments, *args, **kwargs)
        if name in ("list", "reverse", "unique"):
            result = _check_size(list(result)) if not isinstance(result, str) else result
            context[_METER].charge(weight(result))
        return result

    return paid


@pass_context
def _loop(context: Any, values: Any, body_nodes: int) -> list[Any]:
    """What a loop goes through, paid for with all that its body holds."""
    listed = _check_size(list(values))
    context[_METER].charge(len(listed) * body_nodes * CHARS_A_NODE)
    assert isinstance(listed, list)
    return listed


class _Metering(NodeTransformer):
    """Puts a filter where Jinja would work without asking: loops, and `~`."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - Jinja's own name
        size = 1 + sum(1 for _ in node.find_all(nodes.Node))
        self.generic_visit(node)
        node.iter = nodes.Filter(node.iter, _LOOP_FILTER, [nodes.Const(size)], [], None, None)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802 - Jinja's own name
        self.generic_visit(node)
        return nodes.Filter(nodes.List(node.nodes), _CONCAT_FILTER, [], [], None, None, lineno=node.lineno)


def _slug(value: Any) -> str:
    from runner.manifest.naming import slug

    return slug(text_of(value))


@lru_cache
def _environment(finalize: Callable[[str], str] | None) -> _Environment:
    # With the context as an argument nothing is written, and so nothing worked out, before there is a meter.
    @pass_context
    def write(_context: Any, value: Any) -> Any:
        if value is None or isinstance(value, (bool, int, float, str)):
            text = str(value) if isinstance(value, float) else text_of(value)
            return finalize(text) if finalize else text
        if isinstance(value, StrictUndefined):
            return value
        if isinstance(value, Undefined):  # `{{ a if b }}` without its else
            return ""
        raise TypeError(f"{type(value).__name__} cannot be written: name one of its parts")

    environment = _Environment(
        undefined=StrictUndefined, autoescape=False, finalize=write, keep_trailing_newline=True, optimized=False
    )
    for registry, allowed in ((environment.filters, _FILTERS), (environment.tests, _TESTS)):
        for name in set(registry) - set(allowed):
            del registry[name]
    environment.filters.update({"join": _join, "replace": _replace, "int": _int, "slug": _slug, "round": _round})
    environment.filters[_CONCAT_FILTER] = _concat
    for name, work in list(environment.filters.items()):
        environment.filters[name] = _metered(name, work)
    environment.filters[_LOOP_FILTER] = _loop
    environment.globals.clear()
    environment.globals["range"] = _range
    return environment


def render(template: Any, values: Mapping[str, Any], meter: Meter) -> Iterator[str]:
    """The pieces of a template's text; what they take is counted by `meter`."""
    pieces: Iterator[str] = template.generate({**values, _METER: meter})
    return pieces


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
        names = frozenset(meta.find_undeclared_variables(tree) - {"range"})
        metered = _Metering().visit(tree)
        nodes.Node.set_environment(metered, environment)
        return environment.from_string(metered), names
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
    if isinstance(node, nodes.Const) and isinstance(node.value, float) and not math.isfinite(node.value):
        raise Wrong("a number in the template is too large", hint="write a smaller one")
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
