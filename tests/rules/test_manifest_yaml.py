"""What YAML means here: text as written, no traps of YAML 1.1, nothing that makes objects or eats the machine."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runner import manifest
from runner.errors import InputError, ManifestError
from runner.manifest import Manifest
from runner.manifest.resolving import resolved
from tests.rules.manifest_data import CATALOG, NOWHERE, job, loads, refused, tasks


@pytest.mark.parametrize(
    "written",
    ["2026-11-22", "007", "12:30:00", "1e3", "1_000", "0x1F", "0o17", "on", "No", "y", "1.50", "true", ".inf", "3"],
)
def test_text_is_what_was_written(written: str) -> None:
    """Where text is wanted, a bare word, number or date is the text that stands there."""
    loaded = job(f"edition: {written}\nprompts: [{{text: {written}, id: {written}}}]\n")
    assert loaded.edition == written
    assert tasks(loaded)[0].request.prompt == written


@pytest.mark.parametrize("written", ["2026-11-22", "007", "12:30:00", "1e3", "on", "off", "No", "1.50", "true", "3"])
def test_own_variables_read_as_written(written: str) -> None:
    """An own axis keeps the spelling of every scalar, in the prompt and in the variant."""
    (task,) = tasks(job(f"prompts: ['light {{{{ light }}}}']\nmatrix: {{light: [{written}]}}\n"))
    assert task.request.prompt == f"light {written}"
    assert task.variant == (("light", written),)


def test_sizes_and_words_need_no_quotes() -> None:
    """1024x1024 is no number, and `on`, `off` no truth values."""
    loaded = job("prompts: ['{{ light }}']\nmatrix: {size: [1024x1024], light: [on, off]}\n")
    assert [task.request.prompt for task in tasks(loaded)] == ["on", "off"]


def test_money_is_exact() -> None:
    """The budget comes from the text, so that 0.1 is a tenth."""
    assert job("budget: 0.1").budget == job("budget: {usd: 0.10}").budget
    budget = job("budget: {usd: 0.1, per: job}").budget
    assert budget is not None
    assert (budget.usd, budget.per) == (Decimal("0.1"), "job")


def test_empty_values_are_defaults() -> None:
    """A key without a value is as good as no key."""
    loaded = job("description:\nmatrix:\nlimits:\nsettings:\nbudget:\noutput:\nretry: ~\nvars: null\nsamples:\n")
    assert (loaded.samples, loaded.budget, loaded.retry.attempts) == (1, None, 5)


def test_anchors_and_merges() -> None:
    """Aliases repeat a value; `<<` adds the keys that are not there."""
    loaded = job(
        "prompts:\n"
        "  - &base {id: one, text: A cat, settings: &low {quality: low}}\n"
        "  - {<<: *base, id: two}\n"
        "  - {id: three, text: A dog, settings: *low}\n"
        "  - {<<: [{id: four}, *base]}\n"
    )
    assert [task.prompt_id for task in tasks(loaded)] == ["one", "two", "three", "four"]
    assert {task.request.quality for task in tasks(loaded)} == {"low"}
    assert "a second <<" in refused("a: &a {b: 1}\nc: {<<: *a, <<: *a}\n").message
    assert "<< takes a mapping" in refused("a: {<<: [1]}\n").message


def test_an_alias_bomb_is_refused() -> None:
    """Ten aliases of ten aliases of ...: the size is counted, never built."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 60)]
    error = refused("\n".join(lines))
    assert "once its aliases are written out" in error.message
    assert error.line == 5


def test_a_merge_bomb_is_refused() -> None:
    """Merges count like aliases."""
    keys = ", ".join(f"k{n}: 1" for n in range(2000))
    error = refused(f"a: &a {{{keys}}}\nb: {{<<: [{', '.join(['*a'] * 200)}]}}\n")
    assert "more than 100,000 values" in error.message


def test_too_many_values_are_refused() -> None:
    """A hundred thousand prompts belong into a file; the hint says so."""
    assert "CSV" in (refused("prompts: [" + "a, " * 100_001 + "]").hint or "")


def test_nesting_by_aliases_is_bounded() -> None:
    """Depth counts through aliases too."""
    lines = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 100)]
    assert "nested more than 64 deep" in refused("\n".join(lines)).message


_fragments = st.sampled_from(
    [
        "name: a",
        "prompts:",
        "prompts: [A cat]",
        "- ",
        "  - text: ",
        "matrix:",
        "  size: [auto]",
        "  quality: [low, high]",
        "  include: ",
        "  exclude: ",
        "  zip: ",
        "{a: b}",
        "[",
        "]",
        "{",
        "}",
        "*a",
        "&a ",
        "<<: *a",
        "!!python/name:os.system ",
        "{{ x }}",
        "{% if x %}",
        "{%",
        "}}",
        "samples: 2",
        "vars: {x: 1}",
        "output: {name: ",
        '"',
        "'",
        "\t",
        "#",
        ": ",
        ":",
        ",",
        "---",
        "...",
        "? ",
        "007",
        "null",
        "~",
        "true",
        "1e999",
        "file: x.csv",
        "budget: 5",
        "\\0",
        "�",
        "",
        "\x00",
        "\ufeff",
        "{{ x * 99999999 }}",
        "limits: ",
        "settings: {size: auto}",
        "version: 1",
    ]
)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.one_of(_fragments, st.text(max_size=8), st.just("\n"), st.just("\n  ")), max_size=14).map("".join))
@example("name: a\nprompts: [A cat]\nmatrix: {<<: 1}")
@example("? ")
@example("%YAML 9.9\n---\na")
@example("a: " + "9" * 5000)
def test_any_text_is_a_manifest_or_a_manifest_error(text: str) -> None:
    """Whatever is fed in, no other exception comes out."""
    try:
        assert isinstance(loads(text), Manifest)
    except ManifestError as error:
        assert error.hint
        assert error.line is not None


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(
            [
                "version",
                "name",
                "description",
                "provider",
                "model",
                "fallback_model",
                "edition",
                "vars",
                "prompts",
                "matrix",
                "samples",
                "settings",
                "output",
                "limits",
                "budget",
                "retry",
                "timeouts",
                "delivery",
                "batch",
            ]
        ),
        st.recursive(
            st.sampled_from([None, True, 5, -1, 0.5, "a", "auto", "low", "{{ x }}", "{{ sample }}", "1024x1024"]),
            lambda inner: st.one_of(
                st.lists(inner, max_size=3),
                st.dictionaries(
                    st.sampled_from(
                        [
                            "text",
                            "id",
                            "file",
                            "vars",
                            "settings",
                            "size",
                            "quality",
                            "zip",
                            "include",
                            "exclude",
                            "x",
                            "usd",
                            "per",
                            "name",
                            "tier",
                            "fall_back",
                            "after",
                            "where",
                        ]
                    ),
                    inner,
                    max_size=4,
                ),
            ),
            max_leaves=8,
        ),
    )
)
def test_any_data_under_the_real_keys_is_judged(data: dict[str, object]) -> None:
    """Values of any shape under any key end in a manifest that resolves and expands, or in a ManifestError."""
    try:
        loaded = loads(json.dumps({"name": "a", "prompts": ["A cat"], **data}))
        tasks(loaded)
        assert tasks(loads(resolved(loaded))) or not tasks(loaded)
    except ManifestError as error:
        assert error.hint


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=30))
def test_any_override_is_applied_or_an_input_error(word: str) -> None:
    """`--set` takes any text without another exception."""
    for one in (word, f"matrix.{word}", f"prompts.0.{word}", f"samples={word}", f"prompts={word}"):
        try:
            manifest.loads(
                "name: a\nprompts: [A cat]\n", source="j", base_dir=NOWHERE, overrides=[one], catalog=CATALOG
            )
        except InputError as error:
            assert error.hint
