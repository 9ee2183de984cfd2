"""Templates: what they can say, and that they can reach nothing and eat nothing."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from tests.rules.manifest_data import job, refused, tasks


def rendered(text: str, rest: str = "") -> list[str]:
    """The prompts that a template gives."""
    return [task.request.prompt for task in tasks(job(f"prompts: [{json.dumps(text)}]\n{rest}"))]


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("A {{ x }} cat", "A Red cat"),
        ("A {{x}} cat", "A Red cat"),
        ("A {{ x | lower }} cat", "A red cat"),
        ("A {{ x.upper() }}{{ x[0] }}", "A REDR"),
        ("{% if n > 2 %}many{% else %}few{% endif %} cats", "many cats"),
        ("{{ n + 1 }} cats, {{ n * 2 }}, {{ '-' * n }}", "4 cats, 6, ---"),
        ("{% for i in range(n) %}{{ i }}{{ ',' if not loop.last }}{% endfor %}", "0,1,2"),
        ("{{ flag }} {{ 'yes' if flag else 'no' }}", "true yes"),
        ("{{ ratio }}", "1.50"),
        ("{{ ratio | float / 3 }}", "0.5"),
        ("{{ size }} {{ quality }} {{ model }}", "auto auto gpt-image-1-mini"),
        ("{{ x ~ '-' ~ n }} {{ x | slug }} {{ ['a', 'b'] | join('+') }}", "Red-3 red a+b"),
        ("A {red} cat, 100 %, {{ '{{' }}", "A {red} cat, 100 %, {{"),
        ("  A cat \n", "A cat"),
        ("{# a note #}A cat", "A cat"),
    ],
)
def test_what_a_template_can_say(text: str, result: str) -> None:
    """Variables, expressions, conditions and one level of loops; spaces around a prompt are not part of it."""
    assert rendered(text, "vars: {x: Red, n: 3, flag: true, ratio: 1.50}") == [result]


def test_prompt_variables_expand_in_order() -> None:
    """Lists expand to their product, the first changing slowest; the prompt's scalars win over the job's."""
    loaded = job(
        "vars: {place: home, mood: calm}\n"
        "prompts: [{id: p, text: '{{ a }} {{ b }} {{ place }} {{ mood }}', "
        "vars: {a: [1, 2], b: [x y, x-y], place: sea}}]\n"
    )
    found = tasks(loaded)
    assert [task.request.prompt for task in found] == [
        "1 x y sea calm",
        "1 x-y sea calm",
        "2 x y sea calm",
        "2 x-y sea calm",
    ]
    assert [task.prompt_id for task in found] == ["p-1-x-y", "p-1-x-y-2", "p-2-x-y", "p-2-x-y-2"]
    assert found[1].variant == (("a", "1"), ("b", "x-y"))


def test_an_axis_that_a_combination_lacks() -> None:
    """A variable of the job stands in; without one the template says that it is undefined."""
    matrix = "matrix: {size: [auto], include: [{size: auto, tone: warm}, {size: 1024x1024}]}\n"
    assert rendered("A {{ tone }} cat", matrix + "vars: {tone: plain}\n") == ["A warm cat", "A plain cat"]
    assert rendered("A cat{{ ', ' + tone if tone is defined }}", matrix) == ["A cat, warm", "A cat"]
    assert rendered("A {{ tone | default('plain') }} cat", matrix) == ["A warm cat", "A plain cat"]
    error = refused(f"name: a\nprompts: ['A {{{{ tone }}}} cat']\n{matrix}")
    assert (error.place, "no value here" in error.message) == ("job.yaml:2:17", True)


ESCAPES = [
    "{{ ''.__class__.__mro__ }}",
    "{{ x.__init__.__globals__ }}",
    "{{ x['__class__'] }}",
    "{{ x|attr('__class__') }}",
    "{{ ().__class__ }}",
    "{{ self }}",
    "{{ self._TemplateReference__context }}",
    "{{ cycler.__init__ }}",
    "{{ lipsum.__globals__ }}",
    "{{ namespace() }}",
    "{{ range.__self__ }}",
    "{{ '{0.__class__}'.format(x) }}",
    "{{ '%s' % x }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ x.encode('utf-8') }}",
    "{{ x.format_map({}) }}",
    "{% include 'job.yaml' %}",
    "{% import 'x' as y %}",
    "{% extends 'x' %}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{% set y = x %}{{ y }}",
    "{% with y = x %}{{ y }}{% endwith %}",
    "{% filter upper %}x{% endfilter %}",
    "{% call x() %}{% endcall %}",
    "{{ x() }}",
    "{{ x|random }}",
    "{{ x|tojson }}",
    "{% for i in range(9) recursive %}{{ loop(range(9)) }}{% endfor %}",
    "{% for a in range(9) %}{% for b in range(9) %}x{% endfor %}{% endfor %}",
]


@pytest.mark.parametrize("text", ESCAPES)
def test_the_sandbox_holds(text: str) -> None:
    """No way to Python's insides, to files, to other templates, or to chance."""
    error = refused(f"name: a\nvars: {{x: a}}\nprompts: [{json.dumps(text)}]\n")
    assert error.line == 3


GREEDY = [
    "{{ 'a' * 1000000000 }}",
    "{{ 1000000000 * x }}",
    "{{ [1] * 1000000000 }}",
    "{{ 9 ** 9 ** 9 }}",
    "{{ range(1000000000) | list }}",
    "{{ range(1001) | join }}",
    "{{ x.center(1000000000) }}",
    "{{ x | center(1000000000) }}",
    "{{ x.ljust(1000000000) }}",
    "{{ x | batch(1000000000, 'x') }}",
    "{{ x | indent(1000000000) }}",
    "{{ ('a' * 60000) | replace('a', 'b' * 6000) }}",
    "{{ ('a' * 60000).replace('a', 'b' * 6000) }}",
    "{{ ('a' * 60000) | join('b' * 6000) }}",
    "{% for a in range(1000) %}{{ 'a' * 60000 }}{% endfor %}",
    "{{ 'a' * 60000 + 'a' * 60000 }}",
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "{{ " + " * ".join(["999999999"] * 2000) + " }}",
    "{{ '\\t'.expandtabs(1000000000) }}",
]


@pytest.mark.parametrize("text", GREEDY)
def test_a_template_cannot_eat_the_machine(text: str) -> None:
    """What could grow without end is refused before it grows."""
    manifest_text = f"name: a\nvars: {{x: a}}\nprompts: [{json.dumps(text)}]\n"
    tracemalloc.start()
    try:
        error = refused(manifest_text)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert error.line == 3
    assert peak_bytes < 20_000_000


def test_templates_of_names_are_sandboxed_too() -> None:
    """The same rules hold for output.name."""
    error = refused("name: a\nprompts: [A cat]\noutput: {name: \"{{ ''.__class__ }}\"}\n")
    assert error.line == 3
