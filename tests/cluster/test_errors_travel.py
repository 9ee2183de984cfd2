"""Errors and answers come through pickling with all that they say: it is how they come from a node."""

from __future__ import annotations

import pickle

import pytest

from runner import errors
from runner.cluster.messages import Brought, Failed, Picture, Place, Ready, Service, Unmade
from runner.engine.hands import Put
from runner.provider import Endpoint, Made, Timeouts
from runner.provider.envelope import Envelope
from runner.rules.pacing import Heard
from runner.store import Bucket, ImageFacts, Sealed

USAGE = errors.Usage(10, 272, 282, 10, 0)
ALL = [
    errors.RunnerError("words", hint="do this"),
    errors.InputError("words"),
    errors.ManifestError("words", source="job.yaml", line=3, column=7, hint="write that"),
    errors.BudgetExceeded("words"),
    errors.TooManyFailures("words"),
    errors.TimeLimit("words"),
    errors.Locked("words"),
    errors.LedgerError("words", hint="look"),
    errors.StoreError("words", hint="move it"),
    errors.ProviderError("words", code="odd", http_status=418, request_id="r-1", hint="ask"),
    errors.Retryable("words", code="server_error", http_status=500, request_id="r-2", retry_after_s=1.5),
    errors.Unreached("words", code="connection_failed"),
    errors.RateLimited("words", code="rate_limit", http_status=429, request_id="r-3", retry_after_s=0.25),
    errors.Lost("words", code="connection_cut", http_status=200, request_id="r-4"),
    errors.Expired("words", code="batch_expired"),
    errors.Unusable("words", code="no_data", http_status=200, request_id="r-5", usage=USAGE),
    errors.Refused("words", code="moderation_blocked", http_status=400, request_id="r-6"),
    errors.StopRun("words", code="insufficient_quota", http_status=429, request_id="r-7", hint="pay"),
    errors.ModelGone("words", code="model_not_found", http_status=404, request_id="r-8"),
]


def kinds(of: type[errors.RunnerError]) -> set[type[errors.RunnerError]]:
    """A class of errors with all of its own."""
    return {of}.union(*(kinds(kind) for kind in of.__subclasses__() if kind.__module__ == of.__module__))


@pytest.mark.parametrize("error", ALL, ids=lambda error: type(error).__name__)
def test_an_error_comes_through_with_every_field(error: errors.RunnerError) -> None:
    """Its class, its words, its hint, and whatever its class adds; twice, as it may go on from where it came."""
    again = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(error))))
    assert type(again) is type(error)
    assert again.__dict__ == error.__dict__
    assert (again.args, str(again)) == (error.args, str(error))


def test_every_kind_of_error_is_looked_at() -> None:
    """A new one is added to the list above."""
    assert kinds(errors.RunnerError) == {type(error) for error in ALL}


def test_what_driver_and_nodes_say_comes_through() -> None:
    """Each of their messages is equal to itself on the other side."""
    facts = ImageFacts("png", 1024, 1024, False)
    made = Made(Envelope(usage=USAGE, image_bytes=3), 200, "r-1")
    heard = [{"images": Heard(limit=5.0, remaining=4.0, reset_s=1.0)}]
    endpoint = Endpoint("openai", "https://example.com/v1", "sk-x")
    for message in (
        Place(Bucket("s3://bucket/prefix"), "job", "job/.partial/t", b"t", "1"),
        Service(endpoint, Timeouts(), 4, {"OPENAI_ORG_ID": "o"}),
        Ready("why", "what to do", 3),
        Picture("id", 3, "png", [None]),
        Brought(made, Sealed("00", 3, facts), None, heard),
        Brought(made, None, ("bad", "not_an_image"), heard),
        Put("job/a.webp", "11", 3),
        Unmade("why"),
    ):
        assert pickle.loads(pickle.dumps(message)) == message
    failed = pickle.loads(pickle.dumps(Failed(ALL[-1], heard)))  # type: ignore[arg-type]  # any error will do
    assert (type(failed.error), failed.heard) == (errors.ModelGone, heard)


def test_the_key_is_in_no_words_of_what_is_sent() -> None:
    """Whoever prints a message by mistake prints no key."""
    service = Service(
        Endpoint("openai", "https://example.com/v1", "sk-very-secret"), Timeouts(), 4, {"A": "sk-very-secret"}
    )
    assert "sk-very-secret" not in f"{service!r} {service}"
