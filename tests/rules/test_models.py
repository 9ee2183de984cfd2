"""What the choice of models must hold: their ends, their fallback, and whether a delivery has them at all."""

from __future__ import annotations

import datetime as dt

import pytest

from runner.catalog import Catalog, Delivery, Lifecycle, Provider
from runner.errors import InputError, ManifestError, StopRun
from runner.rules.models import Models, choose_models
from runner.rules.quoting import Quoter
from runner.tasks import Origin
from tests.rules.planning_support import CATALOG, FLARE, MINI, TWO, task

HERE = Origin("job.yaml", 3, 8)
DELIVERY = Origin("job.yaml", 9, 1)
TODAY = dt.date(2026, 11, 22)
SHUTDOWN = dt.date(2026, 12, 1)


def choose(
    *wanted: str,
    today: dt.date = TODAY,
    fallback: str | None = None,
    provider: str = "openai",
    of: Catalog = CATALOG,
    delivery: Delivery = "online",
    delivery_origin: Origin | None = DELIVERY,
) -> Models:
    """The models of a job whose lines all stand at `HERE`, and its delivery at `DELIVERY`."""
    return choose_models(
        dict.fromkeys(wanted, HERE),
        fallback=fallback,
        provider=provider,
        catalog=of,
        today=today,
        delivery=delivery,
        delivery_origin=delivery_origin,
    )


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


# -- batches ----------------------------------------------------------------------------------------


def with_models(**changes: dict[str, object]) -> Catalog:
    """The catalog with some fields of models changed; a model's name has _ for its dots and dashes here."""
    names = {name.replace("-", "_").replace(".", "_"): name for name in CATALOG.models}
    return CATALOG.model_copy(
        update={
            "models": CATALOG.models
            | {names[name]: CATALOG.models[names[name]].model_copy(update=change) for name, change in changes.items()}
        }
    )


@pytest.mark.parametrize("provider", ["openai", "simulator"])
def test_models_that_are_served_in_batches_are_chosen_as_they_are(provider: str) -> None:
    """The facts say it of mini and of gpt-image-2; the simulator follows OpenAI."""
    models = choose(MINI, TWO, provider=provider, delivery="batch", today=dt.date(2026, 10, 1), fallback=TWO)
    assert models == Models({MINI: MINI, TWO: TWO}, (), TWO)


def test_a_provider_without_batches_is_refused_at_the_line_of_the_delivery() -> None:
    """What nobody says counts as no, and the hint says what to write, here or into a catalog of one's own."""
    with pytest.raises(ManifestError) as caught:
        choose(MINI, provider="cometapi", delivery="batch")
    assert caught.value.place == "job.yaml:9:1"
    assert "cometapi is not known to have the Batch API" in caught.value.message
    assert caught.value.hint is not None
    for part in ("delivery: online", "--catalog", "providers: {cometapi: {batch: true}}"):
        assert part in caught.value.hint


def test_a_delivery_of_the_command_line_has_no_line() -> None:
    """The complaint still says what it is about."""
    with pytest.raises(InputError, match="delivery by batch: cometapi") as caught:
        choose(MINI, provider="cometapi", delivery="batch", delivery_origin=None)
    assert not isinstance(caught.value, ManifestError)


@pytest.mark.parametrize("batch", [None, False])
def test_a_model_that_is_not_known_in_batches_is_refused_at_its_line(batch: bool | None) -> None:
    """Unclear is no: a batch that is refused after an hour helps nobody. The hint names models that are served."""
    of = with_models(gpt_image_2_6_flare={"batch": batch})
    with pytest.raises(ManifestError) as caught:
        choose(TWO, FLARE, delivery="batch", of=of)
    assert caught.value.place == "job.yaml:3:8"
    assert f"{FLARE} is not known to be served in batches" in caught.value.message
    assert caught.value.hint is not None
    for part in (f"({MINI}, {TWO})", "delivery: online", f"models: {{{FLARE}: {{batch: true}}}}", "--catalog"):
        assert part in caught.value.hint
    assert choose(TWO, FLARE, of=of).effective == {TWO: TWO, FLARE: FLARE}, "online it is as good as any"


def test_a_model_that_has_ended_is_no_advice() -> None:
    """The models that the hint names can be asked today."""
    with pytest.raises(ManifestError) as caught:
        choose(FLARE, delivery="batch", today=SHUTDOWN)
    assert caught.value.hint is not None
    assert f"({TWO})" in caught.value.hint


def test_a_model_without_a_batch_price_is_refused_at_its_line() -> None:
    """Law 4: what has no price cannot be kept under a cap, whatever the model can."""
    of = with_models(gpt_image_2_6_flare={"batch": True})
    with pytest.raises(ManifestError, match=f"no batch price for {FLARE} at openai") as caught:
        choose(FLARE, delivery="batch", of=of)
    assert caught.value.place == "job.yaml:3:8"
    assert caught.value.hint is not None
    assert "--catalog" in caught.value.hint


def test_an_alias_is_served_in_batches_like_its_model() -> None:
    alias = "gpt-image-2-2026-04-21"
    assert choose(alias, delivery="batch").effective == {alias: alias}


def test_a_fallback_that_is_not_served_in_batches_is_not_asked_in_one() -> None:
    """The job goes on with its model, and is told what to write; online the fallback is as good as ever."""
    models = choose(MINI, fallback=FLARE, delivery="batch")
    assert (models.effective, models.fallback) == ({MINI: MINI}, None)
    about_it, ending = models.warnings
    assert f"fallback_model {FLARE} is not known to be served in batches at openai" in about_it
    assert f"change that to `fallback_model: {TWO}`" in ending
    assert choose(MINI, fallback=FLARE).fallback == FLARE


def test_a_fallback_without_a_batch_price_is_not_asked_in_one() -> None:
    models = choose(MINI, fallback=FLARE, delivery="batch", of=with_models(gpt_image_2_6_flare={"batch": True}))
    assert models.fallback is None
    assert f"fallback_model {FLARE} has no batch price at openai" in models.warnings[0]


def test_a_fallback_that_would_take_over_today_must_be_served_in_batches() -> None:
    """Its model has ended: there is nothing left that a batch could ask. The line is that of the model."""
    with pytest.raises(ManifestError) as caught:
        choose(MINI, fallback=FLARE, delivery="batch", today=SHUTDOWN)
    assert caught.value.place == "job.yaml:3:8"
    assert f"{FLARE}, which is asked instead of {MINI}" in caught.value.message
    assert choose(MINI, fallback=TWO, delivery="batch", today=SHUTDOWN).effective == {MINI: TWO}


def test_what_has_ended_is_told_to_become_what_is_served_in_batches() -> None:
    """The catalog's first successor is not known in batches: to name it would lead into the next refusal."""
    with pytest.raises(StopRun) as caught:
        choose(MINI, delivery="batch", today=SHUTDOWN)
    assert caught.value.hint is not None
    assert f"model: {TWO}" in caught.value.hint
    assert FLARE not in caught.value.hint


@pytest.mark.parametrize(("days", "warned"), [(2, False), (1, True)])
@pytest.mark.parametrize("provider", ["openai", "simulator"])
def test_a_batch_that_may_outlive_its_model_is_warned_of(days: int, warned: bool, provider: str) -> None:
    """A batch takes up to 24 hours: what is submitted on the last day may never be made."""
    today = SHUTDOWN - dt.timedelta(days=days)
    told = [
        text for text in choose(MINI, provider=provider, delivery="batch", today=today).warnings if "a batch" in text
    ]
    assert len(told) == warned
    assert all(MINI in text and "2026-12-01" in text and "delivery: online" in text for text in told)
    assert not [text for text in choose(MINI, provider=provider, today=today).warnings if "a batch" in text]


def test_a_batch_after_the_end_is_no_longer_warned_of() -> None:
    """A simulator serves what has ended: to warn of a day that is over helps nobody."""
    models = choose(MINI, provider="simulator", delivery="batch", today=SHUTDOWN + dt.timedelta(days=1))
    assert not [text for text in models.warnings if "a batch" in text]


def test_a_provider_of_ones_own_says_that_it_has_batches() -> None:
    """What the hints tell one to write is what helps."""
    own = Provider(name="mine", like="cometapi", batch=True, source="runner")
    price = CATALOG.prices_for("openai", MINI, "batch").model_copy(update={"provider": "mine"})
    of = CATALOG.model_copy(update={"providers": CATALOG.providers | {"mine": own}, "prices": (*CATALOG.prices, price)})
    assert choose(MINI, provider="mine", delivery="batch", of=of).effective == {MINI: MINI}
