"""What the table of a task's life and the key of a task must hold."""

from __future__ import annotations

import dataclasses
import itertools
import string
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.errors import LedgerError
from runner.tasks import TRANSITIONS, Edit, Event, ImageRequest, Input, Status, after, task_key

LIFE = {
    Status.PLANNED: {Event.BEGIN: Status.RUNNING, Event.SUBMIT: Status.SUBMITTED, Event.REUSE: Status.DONE},
    Status.RUNNING: {
        Event.SAVED: Status.DONE,
        Event.BACKOFF: Status.PLANNED,
        Event.REFUSED: Status.REFUSED,
        Event.GAVE_UP: Status.FAILED,
        Event.LOST: Status.IN_DOUBT,
    },
    Status.SUBMITTED: {
        Event.SAVED: Status.DONE,
        Event.REFUSED: Status.REFUSED,
        Event.GAVE_UP: Status.FAILED,
        Event.EXPIRED: Status.PLANNED,
        Event.BACKOFF: Status.PLANNED,
        Event.LOST: Status.IN_DOUBT,
    },
    Status.IN_DOUBT: {Event.ADOPT: Status.DONE, Event.RETRY: Status.PLANNED},
    Status.FAILED: {Event.RETRY: Status.PLANNED},
    Status.REFUSED: {Event.RETRY: Status.PLANNED},
    Status.DONE: {Event.GONE: Status.PLANNED},
}
"""The life of a task as the design draws it, written a second time on purpose."""

REQUEST = ImageRequest("A cat", "gpt-image-1-mini", size="1024x1024", quality="low")
OTHER_VALUES: dict[str, Any] = {
    "prompt": "A dog",
    "model": "gpt-image-2",
    "size": "1536x1024",
    "quality": "high",
    "background": "opaque",
    "output_format": "webp",
    "output_compression": 0,
    "moderation": "low",
    "edit": Edit((Input("1" * 64, 640, 480),)),
}


@pytest.mark.parametrize(("status", "event"), list(itertools.product(Status, Event)))
def test_every_status_takes_exactly_the_events_of_the_design(status: Status, event: Event) -> None:
    """Each of the pairs of a status and an event leads where the design says, or is an error that names both."""
    expected = LIFE[status].get(event)
    if expected is not None:
        assert after(status, event) is expected
        return
    with pytest.raises(LedgerError) as caught:
        after(status, event)
    assert status.value in str(caught.value)
    assert event.value in str(caught.value)


def test_nothing_leads_out_of_done_but_the_loss_of_its_file() -> None:
    """Law 3: a finished task is never sent again, unless its image is gone and a person asks for another."""
    assert [pair for pair in TRANSITIONS if pair[0] is Status.DONE] == [(Status.DONE, Event.GONE)]


def test_every_status_can_be_reached_and_only_a_begun_task_can_be_doubted() -> None:
    """Law 1: what may have been billed was running before, or part of a batch, and that is a record."""
    assert {Status.PLANNED} | set(TRANSITIONS.values()) == set(Status)
    assert [pair for pair, to in TRANSITIONS.items() if to is Status.IN_DOUBT] == [
        (Status.RUNNING, Event.LOST),
        (Status.SUBMITTED, Event.LOST),
    ]


def test_every_event_moves_something() -> None:
    """An event that no status takes would be a word without a meaning."""
    assert {event for _, event in TRANSITIONS} == set(Event)


@pytest.mark.parametrize(
    ("request_", "sample", "edition", "simulated", "key"),
    [
        (REQUEST, 1, None, False, "585f3d40c20f4e352fe561b7c615fe29134b063acd29163ccd2d74f250cc5792"),
        (REQUEST, 1, None, True, "64ae8b0e83618b2192fa90f100caf006cb5708e081ef95db6a7aee39e0d81c58"),
        (
            ImageRequest('Ein "Käfer",\n雨', "gpt-image-2", output_format="jpeg", output_compression=80),
            2,
            "2026-11-22",
            False,
            "e671a513005f3268be4cc9db8cc88d6f19935d6d0bb01ff472790a1769a57068",
        ),
    ],
)
def test_keys_are_the_same_in_every_version(
    request_: ImageRequest, sample: int, edition: str | None, simulated: bool, key: str
) -> None:
    """Law 3: a key that changed with a version would have every finished image paid for again."""
    assert task_key(request_, sample=sample, edition=edition, simulated=simulated) == key


def test_a_key_is_64_hex_digits_and_says_the_same_twice() -> None:
    """The same request has one key, whatever object carries it."""
    key = task_key(REQUEST, sample=1, edition=None, simulated=False)
    assert len(key) == 64
    assert set(key) <= set(string.hexdigits.lower())
    assert key == task_key(dataclasses.replace(REQUEST), sample=1, edition=None, simulated=False)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(ImageRequest)])
def test_every_field_of_a_request_is_part_of_its_key(field: str) -> None:
    """Law 3, the other side: a request that asks for something else is not taken for one that is paid."""
    other = dataclasses.replace(REQUEST, **{field: OTHER_VALUES[field]})
    assert task_key(other, sample=1, edition=None, simulated=False) != task_key(
        REQUEST, sample=1, edition=None, simulated=False
    )


BASE, OTHER, MASK = (Input(digit * 64, 640, 480) for digit in "1ab")
EDIT = Edit((BASE,), MASK)


def test_what_a_request_starts_from_is_part_of_its_key() -> None:
    """Another image, another order of them, another mask or none, another fidelity: each is another request."""
    edits = [
        None,
        EDIT,
        Edit((BASE,)),
        Edit((MASK,)),
        Edit((BASE, OTHER)),
        Edit((OTHER, BASE)),
        Edit((BASE, MASK)),
        Edit((BASE,), OTHER),
        Edit((BASE,), MASK, "high"),
        Edit((BASE,), MASK, "low"),
    ]
    keys = {
        task_key(dataclasses.replace(REQUEST, edit=edit), sample=1, edition=None, simulated=False) for edit in edits
    }
    assert len(keys) == len(edits)


def test_an_edits_key_is_the_same_in_every_version() -> None:
    """Law 3. The sizes of its inputs are not part of it: what they show is."""
    request = dataclasses.replace(REQUEST, edit=EDIT)
    key = task_key(request, sample=1, edition=None, simulated=False)
    assert key == "0e42004971a95fad90b46145396df3caed97c090020ec425ec2bc18af0f8000e"
    larger = dataclasses.replace(request, edit=Edit((dataclasses.replace(BASE, width=9),), MASK))
    assert task_key(larger, sample=1, edition=None, simulated=False) == key


def test_sample_edition_and_simulation_are_part_of_the_key() -> None:
    """A second sample, an edition that asks for fresh images, and a simulated image are each something else."""
    keys = {
        task_key(REQUEST, sample=sample, edition=edition, simulated=simulated)
        for sample in (1, 2)
        for edition in (None, "", "2026-11-22")
        for simulated in (False, True)
    }
    assert len(keys) == 12


WORDS = st.text(max_size=6)
REQUESTS = st.builds(
    ImageRequest, WORDS, WORDS, WORDS, WORDS, WORDS, WORDS, st.none() | st.integers(0, 100), moderation=WORDS
)
WHOLE = st.tuples(REQUESTS, st.integers(1, 3), st.none() | WORDS, st.booleans())


@settings(deadline=None)
@given(WHOLE, WHOLE)
def test_two_requests_share_a_key_only_if_they_are_equal(
    one: tuple[ImageRequest, int, str | None, bool], two: tuple[ImageRequest, int, str | None, bool]
) -> None:
    """No text can move from one field into the next and leave the key as it was."""
    keys = [task_key(request, sample=n, edition=e, simulated=s) for request, n, e, s in (one, two)]
    assert (keys[0] == keys[1]) == (one == two)


def test_text_cannot_leak_from_one_field_into_the_next() -> None:
    """The pair that a key of joined words would take for one."""
    one = ImageRequest('a","b', "m", size="s")
    two = ImageRequest("a", 'b","m', size="s")
    assert task_key(one, sample=1, edition=None, simulated=False) != task_key(
        two, sample=1, edition=None, simulated=False
    )


def test_a_prompt_with_half_a_surrogate_pair_has_a_key() -> None:
    """A prompt from a broken file is refused elsewhere; counting it must not crash."""
    assert len(task_key(ImageRequest("\ud83d", "m"), sample=1, edition=None, simulated=False)) == 64


@pytest.mark.parametrize(("size", "pixels"), [("auto", None), ("1024x1536", (1024, 1536)), ("16x16", (16, 16))])
def test_pixels_are_the_size_in_numbers(size: str, pixels: tuple[int, int] | None) -> None:
    """Width comes first; `auto` has none."""
    assert ImageRequest("p", "m", size=size).pixels == pixels
