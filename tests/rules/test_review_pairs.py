"""Which pairs a person is asked about: each that should be, once, in a balanced order that comes again."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, product

from hypothesis import given
from hypothesis import strategies as st

from runner.review.pairs import Group, Shown, asked, grouped, starred

AXES = ("quality", "size", "style")


def _images(prompts: int, *values: int, samples: int = 1) -> list[Shown]:
    """Every combination of so many values of each axis, for so many prompts."""
    numbers = iter(range(1, 1_000_000))
    return [
        Shown(next(numbers), f"p{prompt}", sample, tuple(zip(AXES, map(str, variant), strict=False)))
        for prompt in range(prompts)
        for variant in product(*map(range, values))
        for sample in range(1, samples + 1)
    ]


def _apart(images: list[Shown]) -> dict[tuple[int, int], int]:
    """Every two of one prompt and sample, with the number of axes in which they differ."""
    return {
        (one.task_id, other.task_id): sum(a != b for a, b in zip(one.variant, other.variant, strict=True))
        for one, other in combinations(images, 2)
        if (one.prompt_id, one.sample) == (other.prompt_id, other.sample)
    }


_shapes = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), st.integers(1, 3), st.integers(1, 2))


@given(_shapes, st.data())
def test_each_pair_that_differs_in_one_axis_is_asked_once(shape: tuple[int, ...], data: st.DataObject) -> None:
    """Also where some images are not done; none that differs in more, or that is of another prompt or sample."""
    everything = _images(shape[0], *shape[1:4], samples=shape[4])
    images = [image for image in everything if data.draw(st.booleans())] if data.draw(st.booleans()) else everything
    pairs = asked(grouped(images, AXES), AXES, seed="job\0Ann")
    assert len(pairs) == len(set(pairs))
    apart = _apart(images)
    assert set(pairs) == {pair for pair, count in apart.items() if count == 1}
    more = asked(grouped(images, AXES), AXES, seed="job\0Ann", all_pairs=True)
    assert set(more) == set(apart)
    assert len(more) == len(apart)
    alone = asked(grouped(images, AXES), AXES, seed="job\0Ann", axis="size")
    variants = {image.task_id: dict(image.variant) for image in images}
    assert set(alone) == {
        (a, b) for (a, b), count in apart.items() if count == 1 and variants[a]["size"] != variants[b]["size"]
    }


def test_the_order_is_a_persons_own_and_comes_again() -> None:
    """A reload finds the same order and the same sides; another person, or another job, has others."""
    groups = grouped(_images(10, 2, 2), AXES[:2])

    def of(seed: str) -> list[tuple[int, int]]:
        return asked(groups, AXES[:2], seed=seed, shuffle_sides=True)

    assert of("job\0Ann") == of("job\0Ann")
    assert of("job\0Ann") != of("job\0Bo")
    assert of("job\0Ann") != of("other\0Ann")


def test_sides_are_shuffled_only_when_asked() -> None:
    """Blind, about half of the pairs stand the other way round, and the pairs are the same ones."""
    groups = grouped(_images(100, 2, 2), AXES[:2])
    plain = asked(groups, AXES[:2], seed="job\0Ann")
    blind = asked(groups, AXES[:2], seed="job\0Ann", shuffle_sides=True)
    assert all(left < right for left, right in plain)
    assert [tuple(sorted(pair)) for pair in blind] == plain
    assert 0.35 < sum(left > right for left, right in blind) / len(blind) < 0.65


def test_wherever_one_stops_axes_and_prompts_are_balanced() -> None:
    """After any number of choices no prompt and no axis was asked about much more than another."""
    images = _images(30, 2, 2, 2)
    variants = {image.task_id: dict(image.variant) for image in images}
    prompts = {image.task_id: image.prompt_id for image in images}
    seen_axes: Counter[str] = Counter(dict.fromkeys(AXES, 0))
    seen_prompts: Counter[str] = Counter(dict.fromkeys(prompts.values(), 0))
    for left, right in asked(grouped(images, AXES), AXES, seed="job\0Ann"):
        seen_axes[next(axis for axis in AXES if variants[left][axis] != variants[right][axis])] += 1
        seen_prompts[prompts[left]] += 1
        assert max(seen_axes.values()) - min(seen_axes.values()) <= 2
        assert max(seen_prompts.values()) - min(seen_prompts.values()) <= 1


def test_values_of_a_long_axis_are_balanced() -> None:
    """Of 50 values of one axis, each is asked about as often as any other, but for the lap that is under way."""
    images = _images(1, 50)
    variants = {image.task_id: image.variant[0][1] for image in images}
    seen: Counter[str] = Counter(dict.fromkeys(variants.values(), 0))
    for count, pair in enumerate(asked(grouped(images, AXES[:1]), AXES[:1], seed="job\0Ann"), start=1):
        seen.update(variants[side] for side in pair)
        if count % 50 == 0:
            assert set(seen.values()) == {2 * count // 50}


def test_a_person_is_never_asked_more_than_so_many() -> None:
    """Of a large job, a part from every prompt; nothing is built of the rest."""
    images = _images(20, 100)
    pairs = asked(grouped(images, AXES[:1]), AXES[:1], seed="job\0Ann", most=400)
    prompts = {image.task_id: image.prompt_id for image in images}
    assert Counter(prompts[left] for left, _ in pairs) == {f"p{n}": 20 for n in range(20)}
    assert len(asked(grouped(_images(500, 2), AXES[:1]), AXES[:1], seed="job\0Ann", most=400)) == 400


def test_a_lacking_axis_is_a_value_of_its_own() -> None:
    """An image without an axis differs from one that has it."""
    images = [
        Shown(1, "p", 1, (("quality", "low"),)),
        Shown(2, "p", 1, (("quality", "low"), ("style", "ink"))),
        Shown(3, "p", 1, (("quality", "high"), ("style", "ink"))),
    ]
    axes = ("quality", "style")
    assert grouped(images, axes) == [Group("p\x001", (1, 2, 3), (("low", "none"), ("low", "ink"), ("high", "ink")))]
    assert set(asked(grouped(images, axes), axes, seed="s")) == {(1, 2), (2, 3)}


def test_every_image_is_asked_for_stars_once() -> None:
    """In an order of the person's own, and no more than so many."""
    images = _images(5, 2, 2)
    order = starred(images, seed="job\0Ann")
    assert sorted(order) == [image.task_id for image in images]
    assert order == starred(images, seed="job\0Ann") != starred(images, seed="job\0Bo")
    assert len(starred(images, seed="job\0Ann", most=7)) == 7
