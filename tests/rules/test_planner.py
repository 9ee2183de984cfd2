"""What a plan must hold: counts, prices and time before a cent is spent, and what is refused before any request."""

from __future__ import annotations

import datetime as dt
import math
import tracemalloc
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner import catalog, planner
from runner.catalog import Catalog, Delivery, Lifecycle
from runner.errors import InputError, ManifestError, StopRun
from runner.planner import CHUNK, Clash, Known, Models, Plan, Quoter
from runner.rules import pricing
from runner.rules.pacing import Gate
from runner.tasks import Edit, ImageRequest, Input, Origin, Status, Task

CATALOG = catalog.load()
MINI = "gpt-image-1-mini"
FLARE = "gpt-image-2.6-flare"
HERE = Origin("job.yaml", 3, 8)
TODAY = dt.date(2026, 11, 22)
SHUTDOWN = dt.date(2026, 12, 1)
PROMPT = "A lighthouse at dusk"


def task(n: int = 1, *, model: str = MINI, size: str = "1024x1024", quality: str = "low", prompt: str = PROMPT) -> Task:
    """The n-th task of a job; its key and name follow from `n` alone."""
    request = ImageRequest(prompt, model, size=size, quality=quality)
    return Task(f"{n:064x}", f"p{n}", 1, request, (("size", size),), f"p{n}/{quality}.png", Origin("job.yaml", n, 3))


def nothing_known(keys: Sequence[str]) -> Mapping[str, Known]:
    return {}


def no_clash(keys: Sequence[str], names: Sequence[str], place: Callable[[int], str]) -> Mapping[int, Clash]:
    return {}


class Claims:
    """Names and keys that were seen, as the ledger keeps them for a plan."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.keys: dict[str, str] = {}

    def __call__(self, keys: Sequence[str], names: Sequence[str], place: Callable[[int], str]) -> Mapping[int, Clash]:
        found: dict[int, Clash] = {}
        for index, (key, name) in enumerate(zip(keys, names, strict=True)):
            here = place(index)
            if (first := self.keys.setdefault(key, here)) != here:
                found[index] = Clash("key", first)
            elif (first := self.names.setdefault(name, here)) != here:
                found[index] = Clash("name", first)
        return found


def make(
    tasks: Iterator[Task] | Sequence[Task],
    *,
    gates: Mapping[str, Gate] | None = None,
    known: planner.Lookup = nothing_known,
    claim: planner.Claim = no_clash,
    models: Models | None = None,
    provider: str = "openai",
    delivery: Delivery = "online",
    seen: Mapping[str, pricing.Calibration] | None = None,
) -> Plan:
    """A plan of `tasks`, with everything that a test does not speak of left out."""
    return planner.make(
        tasks,
        job="job",
        provider=provider,
        simulated=False,
        catalog=CATALOG,
        models=models or Models({MINI: MINI}, ()),
        gates=gates or {},
        known=known,
        claim=claim,
        delivery=delivery,
        seen=seen or {},
    )


def choose(
    *wanted: str, today: dt.date = TODAY, fallback: str | None = None, provider: str = "openai", of: Catalog = CATALOG
) -> Models:
    """The models of a job whose lines all stand at `HERE`."""
    return planner.choose_models(
        dict.fromkeys(wanted, HERE), fallback=fallback, provider=provider, catalog=of, today=today
    )


# -- counts and prices ------------------------------------------------------------------------------

STATES = [
    (Known(None), "to_do", "new"),
    (Known(Status.PLANNED), "to_do", "planned"),
    (Known(Status.RUNNING), "to_do", "running"),
    (Known(Status.SUBMITTED), "to_do", "submitted"),
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
    counts = {name: plan.total(name) for name in ("done", "reusable", "to_do", "left")}
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


def test_a_batch_is_planned_at_its_own_price() -> None:
    """Half the price, and the published online price is not what is reserved for it."""
    plan = make([task()], delivery="batch")
    assert plan.total("expected_microusd") == 1_088 + 11
    assert plan.total("worst_microusd") == 1_088 + 26


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
        assert group.wanted == group.done + group.reusable + group.to_do + group.left
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


@pytest.mark.parametrize(
    ("today", "when"),
    [
        (SHUTDOWN - dt.timedelta(days=31), None),
        (SHUTDOWN - dt.timedelta(days=30), "in 30 days"),
        (SHUTDOWN - dt.timedelta(days=9), "in 9 days"),
        (SHUTDOWN - dt.timedelta(days=1), "in 1 days"),
    ],
)
def test_plan_warns_of_a_shutdown_thirty_days_before(today: dt.date, when: str | None) -> None:
    """The line, the model, the date, how long, and what to write: before it is too late."""
    models = choose(MINI, today=today)
    assert models.effective == {MINI: MINI}
    if when is None:
        assert models.warnings == ()
        return
    (warning,) = models.warnings
    for part in ("job.yaml:3:8", MINI, "2026-12-01", when, f"fallback_model: {FLARE}"):
        assert part in warning


def test_a_warning_names_the_fallback_that_will_take_over() -> None:
    """Who has named one has nothing to do."""
    models = choose(MINI, fallback=FLARE)
    assert models.effective == {MINI: MINI}
    assert f"then {FLARE} takes over" in models.warnings[0]


@pytest.mark.parametrize("days", [0, 1, 365])
def test_run_refuses_on_the_day_of_the_shutdown_and_after(days: int) -> None:
    """Law 7: the date is data; the error names the line and what to change it to, and has the provider's exit code."""
    with pytest.raises(StopRun) as caught:
        choose(MINI, today=SHUTDOWN + dt.timedelta(days=days))
    error = caught.value
    assert error.exit_code == 6
    assert error.message.startswith(f"job.yaml:3:8: {MINI} was shut down by openai on 2026-12-01")
    assert error.hint is not None
    assert f"model: {FLARE}" in error.hint
    assert f"fallback_model: {FLARE}" in error.hint


@pytest.mark.parametrize("days", [0, 365])
def test_the_fallback_takes_over_by_date(days: int) -> None:
    """A nightly job goes on, and the plan says who makes the images now."""
    models = choose(MINI, "gpt-image-2", fallback=FLARE, today=SHUTDOWN + dt.timedelta(days=days))
    assert models.effective == {MINI: FLARE, "gpt-image-2": "gpt-image-2"}
    (warning,) = models.warnings
    assert FLARE in warning
    assert MINI in warning


@pytest.mark.parametrize("fallback", ["gpt-image-1", "gpt-image-1.5", MINI])
def test_a_fallback_that_is_gone_as_well_is_no_fallback(fallback: str) -> None:
    """Shut down earlier, shut down on the same day, or the model itself."""
    of = CATALOG.model_copy(
        update={
            "prices": (
                *CATALOG.prices,
                CATALOG.prices_for("openai", MINI).model_copy(update={"model": "gpt-image-1"}),
            )
        }
    )
    with pytest.raises(StopRun, match=f"and so was its fallback {fallback}"):
        choose(MINI, fallback=fallback, today=SHUTDOWN, of=of)


def test_a_simulator_is_never_refused_but_warned() -> None:
    """It serves what has ended, and the person still learns of it, by the dates of the provider it is like."""
    models = choose(MINI, provider="simulator", today=SHUTDOWN + dt.timedelta(days=90))
    assert models.effective == {MINI: MINI}
    (warning,) = models.warnings
    assert "2026-12-01" in warning
    assert "already" in warning


def test_a_gateway_goes_on_serving_what_ended_elsewhere() -> None:
    """The date is that of one provider, not of the model everywhere."""
    assert choose(MINI, provider="cometapi", today=SHUTDOWN) == Models({MINI: MINI}, ())


def test_a_model_without_an_end_is_not_warned_of() -> None:
    """No date, no word."""
    assert choose(FLARE, today=dt.date(2030, 1, 1)).warnings == ()


def test_an_alias_ends_with_its_model_and_is_asked_by_its_own_name() -> None:
    """`chatgpt-image-latest` is what the user wrote, and what is sent; date and price are those of the model."""
    alias = "chatgpt-image-latest"
    models = choose(alias)
    assert models.effective == {alias: alias}
    assert "2026-12-01" in models.warnings[0]
    with pytest.raises(StopRun):
        choose(alias, today=SHUTDOWN)
    quoted = Quoter(CATALOG, "openai", models.effective).quote(task(model=alias).request)
    assert quoted == Quoter(CATALOG, "openai", {}).quote(task(model="gpt-image-1.5").request)


def test_a_model_that_cannot_be_priced_is_refused() -> None:
    """Law 4: what has no price cannot be kept under a cap."""
    with pytest.raises(InputError, match="price"):
        choose(FLARE, provider="cometapi")


def test_a_fallback_that_cannot_be_priced_is_not_asked() -> None:
    """Law 4 for the second model: the job goes on with the first, and is told that there is no other."""
    models = choose(MINI, fallback=FLARE, provider="cometapi")
    assert (models.effective, models.fallback) == ({MINI: MINI}, None)
    assert "no price at cometapi" in models.warnings[0]
    assert choose(MINI, fallback=FLARE).fallback == FLARE


def test_a_model_without_a_successor_still_has_a_hint() -> None:
    """The catalog may not know who comes next."""
    ended = CATALOG.models["gpt-image-2"].model_copy(
        update={"lifecycle": {"openai": Lifecycle(shutdown=TODAY, source="runner")}}
    )
    of = CATALOG.model_copy(update={"models": CATALOG.models | {"gpt-image-2": ended}})
    with pytest.raises(StopRun) as caught:
        choose("gpt-image-2", of=of)
    assert caught.value.hint is not None
    assert "model: MODEL" in caught.value.hint


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


# -- the quoter -------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([MINI, FLARE]),
            st.sampled_from(["auto", "1024x1024", "1536x1024"]),
            st.sampled_from(["auto", "low", "high"]),
            st.text(max_size=30),
        ),
        max_size=20,
    )
)
def test_what_the_quoter_remembers_changes_no_price(asked: list[tuple[str, str, str, str]]) -> None:
    """In any order, of any models, sizes and prompts: a remembered quote is the quote."""
    quoter = Quoter(CATALOG, "openai", {})
    for model, size, quality, prompt in asked:
        request = ImageRequest(prompt, model, size=size, quality=quality)
        assert quoter.quote(request) == pricing.quote(
            request, CATALOG.model(model), CATALOG.prices_for("openai", model)
        )


def test_a_model_that_goes_away_in_the_middle_is_replaced_everywhere() -> None:
    """From the next quote on the price is that of the fallback, for every wanted model that the lost one had made."""
    quoter = Quoter(CATALOG, "openai", {MINI: MINI, "gpt-image-1.5": MINI, "gpt-image-2": "gpt-image-2"})
    before = quoter.quote(task().request)
    quoter.replace(MINI, FLARE)
    assert [quoter.model_for(name) for name in (MINI, "gpt-image-1.5", "gpt-image-2")] == [FLARE, FLARE, "gpt-image-2"]
    assert quoter.effective_models == {FLARE, "gpt-image-2"}
    after = quoter.quote(task().request)
    assert after != before
    assert after == Quoter(CATALOG, "openai", {}).quote(task(model=FLARE).request)


# -- edits ------------------------------------------------------------------------------------------


def edited(n: int, images: int, *, side: int = 1024, composite: str | None = None) -> Task:
    """A task that starts from so many images."""
    plain = task(n)
    edit = Edit(tuple(Input(f"{n:032x}{i:032x}", side, 1024) for i in range(images)))
    return replace(plain, request=replace(plain.request, edit=edit), composite=composite)


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


def test_calibrations_are_of_the_models_that_the_catalog_knows() -> None:
    """A ledger may hold answers of a model that only another catalog has."""
    edit = Edit((Input("0" * 64, 1024, 1024),))
    found = planner.calibrations(
        [(MINI, edit, 388), ("gone", edit, 5), (MINI, edit, 194), ("dall-e-2", edit, 5)], CATALOG
    )
    assert found == {MINI: pricing.Calibration(582, 388, (388, 194))}
    dearer = make([edited(1, 1)], seen=found).total("expected_microusd") - make([edited(1, 1)]).total(
        "expected_microusd"
    )
    assert dearer == math.ceil(291 * 2.5) - 194 * 2.5
