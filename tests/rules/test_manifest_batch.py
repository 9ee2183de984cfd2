"""What a manifest says of its delivery: how it is read, how it is printed again, and that no task hangs on it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner import manifest
from runner.errors import InputError
from runner.manifest.durations import seconds, written
from runner.manifest.schema import Batch
from tests.rules.manifest_data import job, loads, refused, tasks


def test_a_manifest_that_says_nothing_is_delivered_online() -> None:
    """The defaults: one request an image, and batches of 2,000 without falling back if someone asks for them."""
    loaded = job("")
    assert loaded.delivery == "online"
    assert loaded.batch == Batch(max_requests=2000, fall_back="none", after=None)


@pytest.mark.parametrize("rest", ["batch:\n", "batch: {}\n", "batch: {max_requests: , fall_back: , after: }\n"])
def test_a_key_without_a_value_is_as_good_as_none(rest: str) -> None:
    assert job(rest).batch == Batch()


def test_every_word_of_batch_delivery() -> None:
    loaded = job("delivery: batch\nbatch: {max_requests: 50000, fall_back: online, after: 20h}\n")
    assert loaded.delivery == "batch"
    assert loaded.batch == Batch(max_requests=50_000, fall_back="online", after=72_000.0)


@pytest.mark.parametrize(
    ("text", "expected_s"),
    [
        ("20h", 72_000),
        ("90m", 5400),
        ("1h30m", 5400),
        ("1h30m10s", 5410),
        ("45s", 45),
        ("0.5s", 0.5),
        ("3600", 3600),
        ("1.5", 1.5),
        ("24h", 86_400),
        ("1d", 86_400),
        ("86400", 86_400),
        ("' 2H '", 7200),
    ],
)
def test_after_is_read_as_people_write_times(text: str, expected_s: float) -> None:
    """Up to the 24 hours after which a batch is over; a bare number is seconds."""
    assert job(f"batch: {{fall_back: online, after: {text}}}\n").batch.after == expected_s


@pytest.mark.parametrize("text", ["1.5h", "30m1h", "h", "-1h", "1e3", "'1:30'", "true", "[20h]", "{h: 20}", "''", "½h"])
def test_what_is_no_time_is_refused(text: str) -> None:
    """Half an hour is 30m: one spelling, here and on the command line."""
    error = refused(f"name: a\nprompts: [A cat]\nbatch: {{fall_back: online, after: {text}}}\n")
    assert "a time is wanted" in error.message
    assert error.place == "job.yaml:3:35"


@settings(deadline=None)
@given(st.one_of(st.integers(0, 10**9), st.decimals(0, 10**6, places=9).map(float)))
def test_a_time_that_is_written_is_read_again(duration_s: float) -> None:
    """What `--resolved` prints means what was read."""
    again = seconds(written(duration_s))
    assert again is not None
    assert again == pytest.approx(duration_s, abs=1e-9)


@settings(deadline=None)
@given(st.text("0123456789.dhms -+e:", max_size=12))
def test_any_text_is_a_time_or_none(text: str) -> None:
    """Nothing but a number of seconds or None comes of it."""
    found = seconds(text)
    assert found is None or found >= 0


def test_the_command_line_wins_over_the_manifest() -> None:
    """A missing mapping is made, and a value of `--set` is its own place."""
    loaded = job("", "delivery=batch", "batch.fall_back=online", "batch.after=1h30m")
    assert (loaded.delivery, loaded.batch) == ("batch", Batch(fall_back="online", after=5400.0))
    error = refused("name: a\nprompts: [A cat]\nbatch: {fall_back: none}\n", "batch.after=20h")
    assert error.source == "--set batch.after=20h"
    with pytest.raises(InputError, match="did you mean batch"):
        job("", "bach.fall_back=online")


@pytest.mark.parametrize(
    "rest",
    ["", "delivery: batch\n", "delivery: batch\nbatch: {max_requests: 7, fall_back: online, after: 1h0.25s}\n"],
)
def test_what_is_resolved_is_delivered_alike(rest: str) -> None:
    loaded = job(rest)
    again = loads(manifest.resolved(loaded))
    assert (again.delivery, again.batch) == (loaded.delivery, loaded.batch)
    assert manifest.resolved(again) == manifest.resolved(loaded)


def test_switching_the_delivery_pays_for_nothing_again() -> None:
    """Law 3: tasks, their keys and the digest are the same, so that an enrolled job stays enrolled."""
    online = job("samples: 2\n")
    batch = job("samples: 2\ndelivery: batch\nbatch: {max_requests: 9, fall_back: online, after: 20h}\n")
    assert [(t.key, t.name) for t in tasks(batch)] == [(t.key, t.name) for t in tasks(online)]
    assert batch.digest(simulated=False) == online.digest(simulated=False)


def test_the_place_of_the_delivery_is_known() -> None:
    """A refusal at plan time has a line: its own, that of a `--set`, or the top of the manifest."""
    text = "name: a\nprompts: [A cat]\ndelivery: batch\n"
    assert loads(text).origin_of("delivery").line == 3
    assert loads(text, "delivery=batch").origin_of("delivery").source == "--set delivery=batch"
    assert job("").origin_of("delivery").line == 1
