"""What a plan must hold: counts, prices and time before a cent is spent, and what is refused before any request."""

from __future__ import annotations

import tracemalloc
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner import planner
from runner.errors import InputError, ManifestError
from runner.planner import CHUNK, Batching, Clash, Known, Offer
from runner.rules.models import Models
from runner.rules.pacing import Gate
from runner.tasks import Origin, Status, Task
from tests.rules.planning_support import CATALOG, FLARE, MINI, PROMPT, TWO, Claims, edited, make, task

# -- counts and prices ------------------------------------------------------------------------------

STATES = [
    (Known(None), "to_do", "new"),
    (Known(Status.PLANNED), "to_do", "planned"),
    (Known(Status.RUNNING), "to_do", "running"),
    (Known(Status.SUBMITTED), "submitted", "submitted"),
    (Known(Status.SUBMITTED, reusable=True), "submitted", "submitted"),
    (Known(Status.IN_DOUBT), "to_do", "in_doubt"),
    (Known(Status.DONE), "done", "done"),
    (Known(Status.DONE, reusable=True), "done", "done"),
    (Known(Status.FAILED), "left", "failed"),
    (Known(Status.REFUSED), "left", "refused"),
    (Known(Status.FAILED, reusable=True), "left", "failed"),
    (Known(None, reusable=True), "reusable", "new"),
    (Known(Status.PLANNED, reusable=True), "reusable", "planned"),
]


@pytest.mark.parametrize(("known", "column", "status"), STATES)
def test_each_task_is_counted_in_one_column(known: Known, column: str, status: str) -> None:
    """Law 3: what is done, reusable or given up is not to do, and has no price."""
    plan = make([task()], known=lambda keys: dict.fromkeys(keys, known))
    counts = {name: plan.total(name) for name in ("done", "reusable", "to_do", "left", "submitted")}
    assert counts == dict.fromkeys(counts, 0) | {column: 1}
    assert plan.total("wanted") == 1
    assert plan.by_status == {status: 1}
    assert (plan.total("worst_microusd") > 0) == (plan.tokens > 0) == (column == "to_do")


def test_every_status_has_its_column() -> None:
    """No status of a task is forgotten by the table above."""
    assert {known.status for known, _, _ in STATES} == {None, *Status}


def test_the_price_of_a_plan_is_the_sum_of_its_quotes() -> None:
    """By model, size and quality; expected from tokens, the worst case from the published prices."""
    tasks = [
        task(n, size=size, quality=quality)
        for n, (size, quality) in enumerate([("1024x1024", "low")] * 3 + [("1536x1024", "medium")] * 2, 1)
    ]
    plan = make(tasks)
    prompt_expected, prompt_worst = 2 * (5 + 6), 2 * (20 + 6)
    low, medium = plan.groups[MINI, "1024x1024", "low"], plan.groups[MINI, "1536x1024", "medium"]
    assert (low.wanted, low.expected_microusd, low.worst_microusd) == (
        3,
        3 * (2_176 + prompt_expected),
        3 * (5_000 + prompt_worst),
    )
    assert (medium.wanted, medium.expected_microusd, medium.worst_microusd) == (
        2,
        2 * (12_544 + prompt_expected),
        2 * (15_000 + prompt_worst),
    )
    assert plan.total("expected_microusd") == low.expected_microusd + medium.expected_microusd
    assert plan.tokens == 3 * (272 + 11) + 2 * (1568 + 11)
    assert plan.price_version == CATALOG.version


def test_a_fallback_is_planned_at_its_own_price_under_the_wanted_name() -> None:
    """The line says what is wanted; the money is that of the model which will be asked."""
    plan = make([task()], models=Models({MINI: FLARE}, ("used instead",)))
    (place,) = plan.groups
    assert place[0] == MINI
    assert plan.total("expected_microusd") == 196 * 30 + 11 * 5
    assert plan.warnings == ["used instead"]
    assert plan.effective_models == {MINI: FLARE}


def test_a_plan_of_nothing_is_nothing() -> None:
    """A manifest whose filters leave no prompt has a plan with zeros."""
    plan = make([], gates={"images": Gate(5)})
    assert (plan.total("wanted"), plan.tokens, plan.duration_s) == (0, 0, 0)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(STATES), st.sampled_from(["low", "high"])), max_size=40))
def test_the_columns_add_up_to_what_is_wanted(states: list[tuple[tuple[Known, str, str], str]]) -> None:
    """Nothing is counted twice, nothing is lost."""
    tasks = [task(n, quality=quality) for n, (_, quality) in enumerate(states)]
    known = {one.key: state[0] for one, (state, _) in zip(tasks, states, strict=True)}
    plan = make(tasks, known=lambda keys: {key: known[key] for key in keys})
    assert plan.total("wanted") == len(tasks) == sum(plan.by_status.values())
    for group in plan.groups.values():
        assert group.wanted == group.done + group.reusable + group.to_do + group.left + group.submitted
        assert group.expected_microusd <= group.worst_microusd


# -- time -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gates", "duration_s"),
    [
        ({}, None),
        ({"images": Gate(5)}, 120.0),
        ({"images": Gate(5), "requests": Gate(2)}, 300.0),
        ({"images": Gate(60), "tokens": Gate(283)}, 600.0),
        ({"images": Gate(1), "tokens": Gate(283)}, 600.0),
    ],
)
def test_the_slowest_gate_says_how_long_it_takes(gates: Mapping[str, Gate], duration_s: float | None) -> None:
    """Ten images of 283 tokens each; without a limit nobody can say."""
    assert make([task(n) for n in range(10)], gates=gates).duration_s == duration_s


def test_what_is_done_takes_no_time() -> None:
    """Only what is to do passes the gates."""
    plan = make(
        [task(n) for n in range(10)],
        gates={"images": Gate(5)},
        known=lambda keys: {key: Known(Status.DONE) for key in keys[:9]},
    )
    assert plan.duration_s == 12


def test_a_request_that_can_never_pass_is_refused_wherever_it_stands() -> None:
    """A prompt in the middle of a job is longer than the minute's tokens: the plan says so, not the run at midnight."""
    tasks = [task(1), task(2, prompt="word " * 400), task(3)]
    with pytest.raises(InputError, match=r"778 tokens.*700 per minute"):
        make(tasks, gates={"tokens": Gate(700)})
    make(tasks, gates={"tokens": Gate(778)})


def test_a_request_that_can_never_pass_but_is_done_is_no_reason_to_refuse() -> None:
    """It will not be sent."""
    known = {task(1).key: Known(Status.DONE)}
    assert make([task(1)], gates={"tokens": Gate(10)}, known=lambda keys: known).total("done") == 1


# -- warnings ---------------------------------------------------------------------------------------


def test_auto_quality_is_warned_of_once() -> None:
    """It may bill as the highest quality; a thousand lines of that help nobody."""
    plan = make([task(n, quality="auto") for n in range(5)])
    assert len(plan.warnings) == 1
    assert "auto" in plan.warnings[0]
    assert make([task()]).warnings == []


# -- clashes ----------------------------------------------------------------------------------------


def renamed(n: int, name: str) -> Task:
    one = task(n)
    return Task(one.key, one.prompt_id, 1, one.request, one.variant, name, one.origin)


@pytest.mark.parametrize(
    ("first", "second"), [("a/b.png", "a/b.png"), ("a/B.png", "A/b.png"), ("caf\u00e9.png", "cafe\u0301.PNG")]
)
def test_two_tasks_with_one_file_name_are_refused_with_both_places(first: str, second: str) -> None:
    """Law 2: the second would overwrite the first, also on a disk that takes upper and lower case for one."""
    with pytest.raises(ManifestError) as caught:
        make([renamed(4, first), task(5), renamed(6, second)], claim=Claims())
    error = caught.value
    assert error.place == "job.yaml:6:3"
    assert "job.yaml:4:3" in error.message
    assert repr(second) in error.message
    assert error.hint is not None
    assert "output.name" in error.hint


def test_two_tasks_that_ask_for_one_image_are_refused_with_both_places() -> None:
    """Law 3: paying twice for one request needs `samples`, not a repetition."""
    one = task(4)
    again = Task(one.key, "other", 1, one.request, (), "other.png", Origin("more.csv", 9))
    with pytest.raises(ManifestError) as caught:
        make([one, again], claim=Claims())
    assert caught.value.place == "more.csv:9"
    assert "job.yaml:4:3" in caught.value.message
    assert caught.value.hint is not None
    assert "samples" in caught.value.hint


def test_a_clash_is_found_across_chunks_and_the_first_one_is_told() -> None:
    """The second task of a pair may come a million tasks later."""
    tasks = [task(n) for n in range(CHUNK + 10)]
    tasks[CHUNK + 7] = renamed(CHUNK + 7, tasks[3].name)
    tasks[CHUNK + 5] = renamed(CHUNK + 5, tasks[2].name)
    with pytest.raises(ManifestError) as caught:
        make(tasks, claim=Claims())
    assert caught.value.line == CHUNK + 5
    assert "job.yaml:2:3" in caught.value.message


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("README.png", "readme.PNG"),
        ("Ärger.png", "ärger.png"),
        ("\u00c4.png", "A\u0308.png"),
        ("straße.png", "STRASSE.png"),
        ("\u0390.png", "\u0399\u0308\u0301.png"),
        ("ΣΑΣ.png", "σας.png"),
        ("\u1e9b\u0323.png", "\u1e69.png"),
    ],
)
def test_names_that_a_careless_file_system_takes_for_one_fold_to_one(one: str, two: str) -> None:
    """Upper and lower case, composed and decomposed, and both at once."""
    assert planner.fold(one) == planner.fold(two)


@pytest.mark.parametrize(("one", "two"), [("a.png", "b.png"), ("a.png", "á.png"), ("a/b.png", "ab.png")])
def test_different_names_stay_different(one: str, two: str) -> None:
    """An accent is a difference on every file system."""
    assert planner.fold(one) != planner.fold(two)


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_folding_is_stable_and_blind_to_the_unicode_form(name: str) -> None:
    """Every way to write one text is one name, and folding twice is folding once."""
    folded = planner.fold(name)
    assert planner.fold(folded) == folded
    assert planner.fold(unicodedata.normalize("NFC", name)) == folded
    assert planner.fold(unicodedata.normalize("NFD", name)) == folded


# -- streaming --------------------------------------------------------------------------------------


class Counted:
    """Endless tasks, and how many of them were taken."""

    def __init__(self) -> None:
        self.taken = 0

    def __iter__(self) -> Iterator[Task]:
        while True:
            self.taken += 1
            yield task(self.taken)


def test_chunks_take_no_more_than_they_give() -> None:
    """Law 8: a manifest of a million rows is read a thousand at a time."""
    source = Counted()
    chunks = planner.chunks(source, 100)
    assert source.taken == 0
    assert [one.key for one in next(chunks)] == [task(n).key for n in range(1, 101)]
    assert source.taken == 100
    next(chunks)
    assert source.taken == 200


@settings(deadline=None)
@given(st.integers(0, 50), st.integers(1, 20))
def test_chunks_lose_nothing_and_are_full_but_for_the_last(count: int, size: int) -> None:
    """All tasks, in their order."""
    tasks = [task(n) for n in range(count)]
    found = list(planner.chunks(tasks, size))
    assert [one for chunk in found for one in chunk] == tasks
    assert all(len(chunk) == size for chunk in found[:-1])
    assert all(found)


def test_an_endless_job_is_refused_at_its_first_clash() -> None:
    """Law 8: planning looks no further than the chunk that it is in."""
    source = Counted()

    def clash(keys: Sequence[str], names: Sequence[str], place: Callable[[int], str]) -> Mapping[int, Clash]:
        return {len(keys) - 1: Clash("name", "job.yaml:1:3")} if source.taken > 2 * CHUNK else {}

    with pytest.raises(ManifestError):
        make(iter(source), claim=clash)
    assert source.taken == 3 * CHUNK


def test_each_task_is_looked_up_once() -> None:
    """One question per chunk, and every key in exactly one of them."""
    asked: list[list[str]] = []

    def known(keys: Sequence[str]) -> Mapping[str, Known]:
        asked.append(list(keys))
        return {}

    tasks = [task(n) for n in range(2 * CHUNK + 1)]
    make(tasks, known=known)
    assert [len(keys) for keys in asked] == [CHUNK, CHUNK, 1]
    assert [key for keys in asked for key in keys] == [one.key for one in tasks]


def test_memory_does_not_grow_with_the_number_of_tasks() -> None:
    """Law 8: a plan of 30 chunks takes as much memory as one of 3."""

    def peak_bytes(count: int) -> int:
        tracemalloc.start()
        try:
            make(task(n, prompt=f"{PROMPT} {n}") for n in range(count))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak_bytes(10)  # what is loaded or cached once is not counted
    # A reference kept for each task would add its key alone: 3 MB to a peak of little more than 1 MB.
    assert peak_bytes(30 * CHUNK) < 2 * peak_bytes(3 * CHUNK)


# -- edits ------------------------------------------------------------------------------------------


def test_input_images_are_in_the_price_the_tokens_and_the_time() -> None:
    """Ten edits of four images at 20 a minute take two minutes where the inputs count, and half a minute elsewhere."""
    tasks = [edited(n, 4) for n in range(10)]
    with_inputs, without = make(tasks, gates={"images": Gate(20.0)}), make([task(n) for n in range(10)])
    assert with_inputs.total("input_images") == 40
    assert with_inputs.tokens - without.tokens == 40 * 194
    added = with_inputs.total("expected_microusd") - without.total("expected_microusd")
    assert added == 10 * 4 * 194 * 2.5
    assert (with_inputs.paced_images, with_inputs.duration_s) == (40, 120.0)
    gateway = make(tasks, gates={"images": Gate(20.0)}, provider="cometapi")
    assert (gateway.paced_images, gateway.duration_s) == (10, 30.0)


def test_what_is_done_counts_no_inputs() -> None:
    tasks = [edited(1, 4), edited(2, 4)]
    plan = make(tasks, known=lambda keys: {tasks[0].key: Known(Status.DONE)})
    assert (plan.total("input_images"), plan.paced_images) == (4, 4)


def test_more_images_than_the_limit_are_warned_of_and_not_refused() -> None:
    """Whether they count is not known for sure: it must not break where they do not."""
    plan = make([edited(1, 16), edited(2, 16)], gates={"images": Gate(5.0)})
    (warning,) = [text for text in plan.warnings if "16 images" in text]
    assert "job.yaml:1:3" in warning
    assert not [text for text in make([edited(1, 5)], gates={"images": Gate(5.0)}).warnings if "images may" in text]


def test_a_composite_that_has_to_be_stretched_is_warned_of() -> None:
    """A square answer over an image of 3:2; not one that only rounding keeps apart, nor where nothing is pasted."""
    assert [text for text in make([edited(1, 1, side=1536, composite="{}")]).warnings if "stretches" in text]
    for fine in (edited(1, 1, composite="{}"), edited(1, 1, side=1040, composite="{}"), edited(1, 1, side=1536)):
        assert not [text for text in make([fine]).warnings if "stretches" in text]


# -- batches ----------------------------------------------------------------------------------------

BATCH = Batching(2000)


def test_a_batch_is_planned_at_its_own_price_and_time() -> None:
    """Half the price, half of the published price as the worst case; no gate slows it down."""
    plan = make([task()], batching=BATCH, gates={"images": Gate(5)})
    assert plan.delivery == "batch"
    assert plan.total("expected_microusd") == 1_088 + 11
    assert plan.total("worst_microusd") == 2_500 + 26
    assert (plan.duration_s, plan.within_s) == (None, 86_400)
    online = make([task()], gates={"images": Gate(5)})
    assert (online.delivery, online.duration_s, online.within_s, online.batches) == ("online", 12, None, 0)


@pytest.mark.parametrize("batching", [None, BATCH])
def test_both_prices_stand_side_by_side_whichever_is_chosen(batching: Batching | None) -> None:
    """The offers are those of two plans, one by each delivery."""
    tasks = [task(n, size=size) for n, size in enumerate(["1024x1024", "1536x1024", "auto"] * 3)]
    tasks += [edited(n, 2) for n in range(10, 13)]
    plan = make(tasks, batching=batching, gates={"images": Gate(5)})
    assert plan.offers == {
        delivery: Offer(alone.total("expected_microusd"), alone.total("worst_microusd"), at_least_s, within_s)
        for delivery, alone, at_least_s, within_s in (
            ("online", make(tasks), (9 + 6) * 12.0, None),
            ("batch", make(tasks, batching=BATCH), None, 86_400.0),
        )
    }
    assert list(plan.offers) == ["online", "batch"]
    assert plan.offers["batch"].expected_microusd < plan.offers["online"].expected_microusd
    own = plan.offers[plan.delivery]
    assert own.expected_microusd == plan.total("expected_microusd")


def test_only_what_is_to_do_is_offered() -> None:
    """Law 3: what is done, submitted or given up has no price by any delivery, and decides nothing."""
    tasks = [task(1), task(2, model=FLARE), task(3), task(4)]
    states = {2: Known(Status.DONE), 3: Known(Status.SUBMITTED), 4: Known(Status.FAILED)}
    known = {task(n).key: state for n, state in states.items()}
    models = Models({MINI: MINI, FLARE: FLARE}, ())
    plan = make(tasks, known=lambda keys: known, models=models)
    assert plan.offers["online"].worst_microusd == 5_000 + 52
    assert plan.offers["batch"].worst_microusd == 2_500 + 26
    assert make(tasks, models=models).offers == {}, "one that is to do has no batches"
    assert make([task()], known=lambda keys: dict.fromkeys(keys, Known(Status.DONE))).offers == {}


def test_a_provider_without_batches_is_offered_nothing() -> None:
    """Nothing is said where there is nothing to choose."""
    assert make([task()], provider="cometapi").offers == {}
    assert list(make([task()], provider="simulator").offers) == ["online", "batch"]


def test_a_model_that_is_only_priced_for_batches_is_offered_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A price that may be no delivery's is no offer: `batch` of the model counts too."""
    model = CATALOG.models[MINI].model_copy(update={"batch": None})
    of = CATALOG.model_copy(update={"models": CATALOG.models | {MINI: model}})
    monkeypatch.setattr("tests.rules.planning_support.CATALOG", of)
    assert make([task()]).offers == {}


@pytest.mark.parametrize(
    ("max_requests", "batches"),
    [(1, 12), (2, 3 + 2 + 2), (3, 2 + 2 + 1), (5, 1 + 1 + 1), (4, 2 + 1 + 1), (50_000, 3)],
)
def test_batches_are_counted_by_model_and_endpoint(max_requests: int, batches: int) -> None:
    """One model and one endpoint a file: five of mini, four of gpt-image-2, three edits of mini."""
    tasks = (
        [task(n) for n in range(5)] + [task(n, model=TWO) for n in range(5, 9)] + [edited(n, 1) for n in range(9, 12)]
    )
    tasks.append(task(12))
    known = {tasks[-1].key: Known(Status.SUBMITTED)}
    plan = make(
        tasks,
        batching=Batching(max_requests),
        models=Models({MINI: MINI, TWO: TWO}, ()),
        known=lambda keys: known,
    )
    assert plan.batches == batches


def test_models_that_become_one_share_batches() -> None:
    """Files are of the model that is asked, not of the one that was wanted."""
    tasks = [task(1), task(2, model=TWO)]
    assert make(tasks, batching=BATCH, models=Models({MINI: TWO, TWO: TWO}, ())).batches == 1
    assert make(tasks, batching=BATCH, models=Models({MINI: MINI, TWO: TWO}, ())).batches == 2


def test_what_falls_back_is_offered_on_the_models_that_are_asked_online() -> None:
    """The price that a person may come to pay is that of the model which would make it then."""
    online = Models({MINI: FLARE}, ())
    plan = make([task()], batching=Batching(2000, online))
    assert plan.falls_back
    assert plan.offers["online"].expected_microusd == 196 * 30 + 11 * 5
    assert plan.offers["batch"].expected_microusd == 1_088 + 11
    assert plan.effective_models == {MINI: MINI}
    assert not make([task()], batching=BATCH).falls_back


def test_what_can_never_pass_online_can_go_in_a_batch() -> None:
    """A batch has a queue of its own; online it is no offer, and whoever wants to fall back is told once."""
    tasks = [task(1, prompt="word " * 400), task(2), task(3, prompt="word " * 500)]
    gates = {"tokens": Gate(300)}
    plan = make(tasks, batching=BATCH, gates=gates)
    assert (plan.total("to_do"), plan.offers, plan.warnings) == (3, {}, [])
    (warning,) = make(tasks, batching=Batching(2000, Models({MINI: MINI}, ())), gates=gates).warnings
    assert "cannot fall back online" in warning
    assert "300 per minute" in warning


def test_input_images_are_no_matter_for_the_pace_of_a_batch() -> None:
    """The limit on images a minute is that of requests one by one."""
    assert make([edited(1, 16)], gates={"images": Gate(5.0)}, batching=BATCH).warnings == []
