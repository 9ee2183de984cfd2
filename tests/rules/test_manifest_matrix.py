"""The matrix: products, zip groups, and `exclude` and `include` as GitHub Actions has them."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from runner.manifest.matrix import combinations
from runner.manifest.schema import Matrix
from tests.rules.manifest_data import job, refused, tasks


def test_include_as_documented_by_github() -> None:
    """The six combinations of the example in GitHub's documentation, in its order."""
    matrix = Matrix.model_validate(
        {
            "fruit": ["apple", "pear"],
            "animal": ["cat", "dog"],
            "include": [
                {"color": "green"},
                {"color": "pink", "animal": "cat"},
                {"fruit": "apple", "shape": "circle"},
                {"fruit": "banana"},
                {"fruit": "banana", "animal": "cat"},
            ],
        }
    )
    assert [combination.values for combination in combinations(matrix)] == [
        {"fruit": "apple", "animal": "cat", "color": "pink", "shape": "circle"},
        {"fruit": "apple", "animal": "dog", "color": "green", "shape": "circle"},
        {"fruit": "pear", "animal": "cat", "color": "pink"},
        {"fruit": "pear", "animal": "dog", "color": "green"},
        {"fruit": "banana"},
        {"fruit": "banana", "animal": "cat"},
    ]


def test_exclude_comes_before_include_and_a_part_is_enough() -> None:
    """What was excluded can be included again."""
    matrix = Matrix.model_validate(
        {
            "size": ["auto", "1024x1024"],
            "quality": ["low", "high"],
            "exclude": [{"quality": "high"}],
            "include": [{"size": "auto", "quality": "high"}],
        }
    )
    assert [tuple(combination.values.values()) for combination in combinations(matrix)] == [
        ("auto", "low"),
        ("1024x1024", "low"),
        ("auto", "high"),
    ]


def test_include_alone_makes_its_own_combinations() -> None:
    """Without axes there is nothing to add to."""
    loaded = job("matrix: {include: [{size: auto, quality: low}, {size: 1024x1024}]}")
    assert [(task.request.size, task.request.quality) for task in tasks(loaded)] == [
        ("auto", "low"),
        ("1024x1024", "auto"),
    ]


def test_what_an_included_combination_lacks_comes_from_the_settings() -> None:
    """A variant still tells every axis of the API."""
    loaded = job("settings: {quality: low}\nmatrix: {quality: [high], size: [auto], include: [{size: 1024x1024}]}")
    assert [task.variant for task in tasks(loaded)] == [
        (("quality", "high"), ("size", "auto")),
        (("quality", "low"), ("size", "1024x1024")),
    ]


def test_zip_groups_advance_together() -> None:
    """A group is one axis to the others; two groups are crossed."""
    loaded = job(
        "prompts: ['{{ look }}']\n"
        "matrix:\n"
        "  quality: [low, high]\n"
        "  zip:\n"
        "    - {size: [1024x1024, 1536x1024], look: [square, wide]}\n"
        "    - {output_format: [png, webp]}\n"
    )
    found = [(t.request.quality, t.request.size, t.request.prompt, t.request.output_format) for t in tasks(loaded)]
    pairs = [("1024x1024", "square"), ("1536x1024", "wide")]
    assert found == [
        (quality, *pair, fmt) for quality, pair, fmt in itertools.product(["low", "high"], pairs, ["png", "webp"])
    ]


def test_an_own_axis_may_label_what_differs_anyway() -> None:
    """An axis that no text uses is fine where each of its values comes with another request."""
    loaded = job("matrix: {zip: [{size: [auto, 1024x1024], label: [any, square]}]}")
    assert [task.variant[1] for task in tasks(loaded)] == [("label", "any"), ("label", "square")]


def test_too_many_combinations() -> None:
    """A slip of the matrix is refused before it fills the memory."""
    axis = ", ".join(map(str, range(200)))
    text = f"name: a\nprompts: ['{{{{ a }}}} {{{{ b }}}}']\nmatrix: {{a: [{axis}], b: [{axis}]}}\n"
    assert "more than 10,000 combinations" in refused(text).message


_values = st.lists(st.sampled_from(["1", "2", "3"]), min_size=1, max_size=3, unique=True)
_partial = st.dictionaries(st.sampled_from("abc"), st.sampled_from("1234"), min_size=1, max_size=2)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from("ab"), _values, min_size=1), st.lists(_partial, max_size=4))
def test_include_never_overwrites_an_original(axes: dict[str, list[str]], include: list[dict[str, str]]) -> None:
    """The originals are all there, first and in order; an entry that fits none of them is there as it is."""
    found = [c.values for c in combinations(Matrix.model_validate({**axes, "include": include}))]
    originals = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    assert [{name: c[name] for name in axes} for c in found[: len(originals)]] == originals
    lonely = [entry for entry in include if not any(all(o.get(k, v) == v for k, v in entry.items()) for o in originals)]
    assert found[len(originals) :] == lonely


def test_precedence_of_settings() -> None:
    """Matrix over the prompt's settings, those over the job's, those over the API's defaults."""
    loaded = job(
        "settings: {quality: low, background: opaque, output_format: webp, output_compression: 80}\n"
        "matrix: {size: [1024x1024], quality: [medium]}\n"
        "prompts:\n"
        "  - {text: A, settings: {quality: high, background: auto, model: gpt-image-2}}\n"
        "  - {text: B, settings: {output_format: png, output_compression: null}}\n"
    )
    one, two = (task.request for task in tasks(loaded))
    assert (one.quality, one.size, one.background, one.model) == ("medium", "1024x1024", "auto", "gpt-image-2")
    assert (one.output_format, one.output_compression, one.moderation) == ("webp", 80, "auto")
    assert (two.output_format, two.output_compression, two.background) == ("png", None, "opaque")
