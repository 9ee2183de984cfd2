"""The simulator's Batch API: states, lines, errors, edits, half the price."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import Any

import openai
import pytest
from PIL import Image

from tests.edges.simulator_batch_support import (
    EDITS,
    GENERATIONS,
    awaited,
    by_id,
    content,
    create,
    finished,
    line,
    lines_of,
    results,
    retrieved,
    rule,
    shots,
    submitted,
    upload,
    uploaded,
)
from tests.edges.simulator_support import (
    Peer,
    check_schema,
    encoded,
    landscape,
    mask_of,
    needs_openapi,
    needs_proc,
    order,
    running,
)


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    with running(art="flat") as it:
        yield it


@pytest.fixture
def clean(peer: Peer) -> Peer:
    """The same simulator, with an empty bill and nothing kept."""
    assert peer.call("POST", "/simulator/reset").status == 200
    return peer


@needs_openapi
def test_a_batch_brings_every_line_once(clean: Peer) -> None:
    """Each with its own answer, id and picture, in another order than the input's; all in the published shapes."""
    prompts = [f"Picture number {number}" for number in range(24)]
    answer = create(clean, uploaded(clean, lines_of(prompts)), metadata={"job": "nightly", "runner_batch": "t1"})
    check_schema(answer.json, "Batch")
    assert answer.json["status"] == "validating"
    assert answer.json["metadata"] == {"job": "nightly", "runner_batch": "t1"}
    assert answer.json["expires_at"] == answer.json["created_at"] + 86_400
    batch = awaited(clean, answer.json["id"])
    check_schema(batch, "Batch")
    assert batch["status"] == "completed"
    assert batch["request_counts"] == {"total": 24, "completed": 24, "failed": 0}
    assert "error_file_id" not in batch
    output, errors = results(clean, batch)
    assert errors == []
    names = [f"line-{number}" for number in range(24)]
    assert sorted(by_id(output)) == sorted(names)
    # All over the place, and not only by workers that are done at different times: that moves most by one or two.
    assert sum(abs(place - names.index(each["custom_id"])) for place, each in enumerate(output)) > 24 * 4
    assert len({each["response"]["request_id"] for each in output}) == len({each["id"] for each in output}) == 24
    entries = {entry["custom_id"]: entry for entry in clean.entries()}
    for number, name in enumerate(names):
        each = by_id(output)[name]
        assert (each["error"], each["response"]["status_code"]) == (None, 200)
        check_schema(each["response"]["body"], "ImagesResponse")
        (file,) = shots(each)
        assert Image.open(io.BytesIO(file)).size == (1024, 1024)
        entry = entries[name]
        assert entry["images"] == [hashlib.sha256(file).hexdigest()]
        assert (entry["prompt"], entry["delivered"]) == (prompts[number], "whole")
        assert (entry["delivery"], entry["batch_id"]) == ("batch", batch["id"])
        assert entry["request_id"] == each["response"]["request_id"]
    stored = clean.call("GET", f"/v1/files/{batch['output_file_id']}").json
    check_schema(stored, "OpenAIFile")
    assert (stored["purpose"], stored["expires_at"] - stored["created_at"]) == ("batch_output", 2_592_000)


# USD per million tokens (text in, image in, image out) of a batch and online, written down here once more on purpose.
_PRICES = {
    "gpt-image-1-mini": ((Fraction(1), Fraction("1.25"), Fraction(4)), (2, Fraction("2.5"), 8)),
    "gpt-image-2": ((Fraction("2.5"), Fraction(4), Fraction(15)), (5, 8, 30)),
}


def _half_up(amount: Fraction) -> int:
    return (2 * amount.numerator + amount.denominator) // (2 * amount.denominator)


@pytest.mark.parametrize("model", list(_PRICES))
def test_a_batch_is_billed_at_half_the_price(clean: Peer, model: str) -> None:
    """Each line's own usage at the batch price, rounded once, to the micro-dollar; online stays what it was."""
    prompts = ["a", "a cat", "a cat and 3 dogs, at dusk", "word " * 50]
    batch = finished(clean, lines_of(prompts, model=model, n=2))
    batch_prices, online_prices = _PRICES[model]
    entries = {entry["custom_id"]: entry for entry in clean.entries()}
    total = tokens_in = tokens_out = 0
    for each in results(clean, batch)[0]:
        usage = each["response"]["body"]["usage"]
        cost = _half_up(usage["input_tokens"] * batch_prices[0] + usage["output_tokens"] * batch_prices[2])
        assert entries[each["custom_id"]]["cost_microusd"] == cost
        total += cost
        tokens_in += usage["input_tokens"]
        tokens_out += usage["output_tokens"]
    told = batch["usage"]
    assert (told["input_tokens"], told["output_tokens"]) == (tokens_in, tokens_out)
    assert told["total_tokens"] == tokens_in + tokens_out
    bill = clean.bill()
    assert bill["cost_microusd"] == bill["by_delivery"]["batch"]["cost_microusd"] == total
    usage = clean.generate("a cat", model=model).json["usage"]
    online = _half_up(Fraction(usage["input_tokens"] * online_prices[0] + usage["output_tokens"] * online_prices[2]))
    assert clean.entries()[-1]["delivery"] == "online"
    assert clean.bill()["by_delivery"]["online"]["cost_microusd"] == online
    assert clean.bill()["cost_microusd"] == total + online


def test_the_states_pass_with_time() -> None:
    """Validating, in progress with counts that grow, finalizing, completed: in this order, each with its time."""
    with running(art="flat", batch_time_s=3.0) as it:
        batch_id = submitted(it, lines_of(["x"] * 12))
        seen: list[str] = []
        counts: list[int] = []
        while not seen or seen[-1] != "completed":
            batch = retrieved(it, batch_id)
            counts.append(batch["request_counts"]["completed"])
            if not seen or seen[-1] != batch["status"]:
                seen.append(batch["status"])
            assert ("output_file_id" in batch) == (batch["status"] == "completed")
            time.sleep(0.02)
    # A short state may pass between two looks; the times tell of it all the same.
    assert seen == [each for each in ("validating", "in_progress", "finalizing", "completed") if each in seen]
    assert "in_progress" in seen
    assert counts == sorted(counts)
    assert len(set(counts)) > 2
    times = [batch[name] for name in ("created_at", "in_progress_at", "finalizing_at", "completed_at", "expires_at")]
    assert times == sorted(times)
    assert times[3] - times[0] >= 2


@needs_openapi
def test_batches_are_listed_newest_first_in_pages(clean: Peer) -> None:
    """With a cursor; an empty list is one as well."""
    empty = clean.call("GET", "/v1/batches").json
    check_schema(empty, "ListBatchesResponse")
    assert (empty["data"], empty["has_more"]) == ([], False)
    ids = [submitted(clean, lines_of(["x"])) for _ in range(5)][::-1]

    def listed(query: str) -> tuple[list[str], bool]:
        answer = clean.call("GET", f"/v1/batches?{query}").json
        check_schema(answer, "ListBatchesResponse")
        names = [each["id"] for each in answer["data"]]
        assert (answer["first_id"], answer["last_id"]) == (names[0], names[-1])
        return names, answer["has_more"]

    assert listed("") == (ids, False)
    assert listed("limit=2") == (ids[:2], True)
    assert listed(f"limit=2&after={ids[1]}") == (ids[2:4], True)
    assert listed(f"limit=2&after={ids[3]}") == (ids[4:], False)
    for query in ("limit=0", "limit=101", "after=batch_none"):
        assert clean.call("GET", f"/v1/batches?{query}").status == 400


@pytest.mark.parametrize(
    ("more", "status", "param"),
    [
        ({"input_file_id": None}, 400, "input_file_id"),
        ({"input_file_id": "file-none"}, 404, "id"),
        ({"endpoint": "/v1/responses"}, 400, "endpoint"),
        ({"endpoint": None}, 400, "endpoint"),
        ({"completion_window": "1h"}, 400, "completion_window"),
        ({"metadata": {"key": 5}}, 400, "metadata"),
        ({"metadata": {"k" * 65: "v"}}, 400, "metadata"),
        ({"metadata": {"k": "v" * 513}}, 400, "metadata"),
        ({"metadata": {f"k{number}": "v" for number in range(17)}}, 400, "metadata"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 60}}, 400, "output_expires_after.seconds"),
        ({"output_expires_after": 3600}, 400, "output_expires_after"),
        ({"colour": "red"}, 400, "colour"),
    ],
)
def test_a_create_that_cannot_be_is_refused(peer: Peer, more: dict[str, Any], status: int, param: str) -> None:
    """Naming the parameter; no batch comes of it."""
    before = peer.call("GET", "/simulator/batches").json["creates"]
    asked = {"input_file_id": uploaded(peer, lines_of(["x"])), "endpoint": GENERATIONS, "completion_window": "24h"}
    answer = peer.call("POST", "/v1/batches", {**asked, **more})
    assert (answer.status, answer.error["param"]) == (status, param)
    assert peer.call("GET", "/simulator/batches").json["creates"] == before


def test_a_batch_is_of_a_file_for_batches(peer: Peer) -> None:
    """A picture's file is refused by its purpose."""
    answer = create(peer, uploaded(peer, lines_of(["x"]), purpose="vision"))
    assert (answer.status, answer.error["param"]) == (400, "input_file_id")


def test_a_batch_that_does_not_exist_is_not_found(peer: Peer) -> None:
    """404 to whoever looks or cancels."""
    assert peer.call("GET", "/v1/batches/batch_none").status == 404
    assert peer.call("POST", "/v1/batches/batch_none/cancel").status == 404


def test_outputs_expire_when_it_was_asked_for(peer: Peer) -> None:
    """An hour after they were written, in place of 30 days."""
    batch = finished(peer, lines_of(["x"]), output_expires_after={"anchor": "created_at", "seconds": 3600})
    stored = peer.call("GET", f"/v1/files/{batch['output_file_id']}").json
    assert stored["expires_at"] - stored["created_at"] == 3600


def _changed(**more: Any) -> bytes:
    return json.dumps({**json.loads(line("changed")), **more}).encode() + b"\n"


@pytest.mark.parametrize(
    ("bad", "code", "param"),
    [
        (b"no JSON\n", "invalid_json_line", None),
        (b"[" * 5000 + b"\n", "invalid_json_line", None),
        (b"\n", "invalid_json_line", None),
        (b"[]\n", "invalid_json_line", None),
        (_changed(custom_id=5), "missing_required_parameter", "custom_id"),
        (_changed(method=None), "missing_required_parameter", "method"),
        (_changed(body="x"), "missing_required_parameter", "body"),
        (_changed(body={"prompt": "x"}), "missing_required_parameter", "body.model"),
        (_changed(method="GET"), "invalid_method", "method"),
        (_changed(url=EDITS), "invalid_url", "url"),
        (line("line-0"), "duplicate_custom_id", "custom_id"),
        (line("other", model="gpt-image-2"), "mismatched_model", "body.model"),
    ],
)
@needs_openapi
def test_a_file_with_a_bad_line_fails(clean: Peer, bad: bytes, code: str, param: str | None) -> None:
    """In validation, with the line's number; nothing is made, nothing billed, no file is left."""
    batch = finished(clean, lines_of(["x", "y"]) + bad + line("last"))
    check_schema(batch, "Batch")
    (flaw,) = batch["errors"]["data"]
    assert (batch["status"], flaw["code"], flaw["param"], flaw["line"]) == ("failed", code, param, 3)
    assert batch["request_counts"]["total"] == 0
    assert {"output_file_id", "error_file_id", "in_progress_at"}.isdisjoint(batch)
    assert clean.bill()["requests"] == 0


def test_every_bad_line_is_told(peer: Peer) -> None:
    """Each with its own number."""
    batch = finished(peer, b"x\n" + lines_of(["x"]) + b"y\n")
    assert [flaw["line"] for flaw in batch["errors"]["data"]] == [1, 3]


@pytest.mark.parametrize("model", ["gpt-image-2.6-flare", "no-such-model"])
def test_a_model_without_batches_fails(peer: Peer, model: str) -> None:
    """One that the catalog has no batch price of, or does not know."""
    batch = finished(peer, lines_of(["x"], model=model))
    (flaw,) = batch["errors"]["data"]
    assert (batch["status"], flaw["code"], flaw["line"]) == ("failed", "model_not_found", 1)


def test_an_empty_file_and_one_with_too_many_lines_fail(peer: Peer) -> None:
    """0 lines are none, 50,000 are the most."""
    assert finished(peer, b"")["errors"]["data"][0]["code"] == "empty_file"
    many = b"".join(line(f"{number}") for number in range(50_001))
    batch = finished(peer, many)
    assert (batch["status"], batch["errors"]["data"][0]["code"]) == ("failed", "too_many_requests")


def test_trouble_of_one_request_is_its_own_line(clean: Peer) -> None:
    """In the error file, with the status and the body that it would have had online; the others get their images."""
    data = lines_of(["fine", "[[fault:moderation]]", "[[fault:moderation=output]]", "[[fault:status=502]]"])
    data += line("size", size="5x5") + line("empty", "") + line("odd", colour="red")
    batch = finished(clean, data)
    assert batch["status"] == "completed"
    assert batch["request_counts"] == {"total": 7, "completed": 1, "failed": 6}
    output, errors = results(clean, batch)
    assert sorted(by_id(output)) == ["line-0", "line-2"]
    assert sorted(by_id(errors)) == ["empty", "line-1", "line-3", "odd", "size"]
    answers = {name: each["response"] for name, each in by_id([*output, *errors]).items()}
    for name in ("line-1", "line-2"):
        assert answers[name]["status_code"] == 400
        assert answers[name]["body"]["error"]["code"] == "moderation_blocked"
    assert (answers["line-3"]["status_code"], answers["line-3"]["body"][:6]) == (502, "<html>")
    told = {name: answers[name]["body"]["error"]["param"] for name in ("size", "empty", "odd")}
    assert told == {"size": "size", "empty": "prompt", "odd": "colour"}
    assert clean.bill()["billed_requests"] == 1
    assert clean.bill()["requests"] == 7


@needs_openapi
def test_the_window_ends_a_batch() -> None:
    """What was done until then is there and billed, the rest is told as expired: each line in one of the two."""
    with running(art="flat", batch_time_s=20.0, batch_window_s=4.0) as it:
        batch = finished(it, lines_of(["x"] * 40))
        check_schema(batch, "Batch")
        output, errors = results(it, batch)
        billed = {entry["custom_id"] for entry in it.entries()}
    assert batch["status"] == "expired"
    assert batch["expires_at"] == batch["created_at"] + 4
    assert output and errors
    assert billed == set(by_id(output))
    assert {each["error"]["code"] for each in errors} == {"batch_expired"}
    assert len({*by_id(output), *by_id(errors)}) == 40
    assert batch["request_counts"] == {"total": 40, "completed": len(output), "failed": 0}


@pytest.mark.parametrize("tells", [False, True])
@needs_openapi
def test_a_cancelled_batch_keeps_what_was_done(tells: bool) -> None:
    """Cancelling, then cancelled with partial results; no document says what becomes of the rest, so both can be."""
    with running(art="flat", batch_time_s=6.0, faults=["batch_tells"] if tells else []) as it:
        batch_id = submitted(it, lines_of(["x"] * 30))
        while not retrieved(it, batch_id)["request_counts"]["completed"]:
            time.sleep(0.02)
        # One right after the other: it is "cancelling" for half a second only.
        answer, second = (it.call("POST", f"/v1/batches/{batch_id}/cancel") for _ in range(2))
        assert (answer.status, answer.json["status"]) == (200, "cancelling")
        assert (second.status, second.json["status"]) == (200, "cancelling")
        check_schema(answer.json, "Batch")
        batch = awaited(it, batch_id)
        check_schema(batch, "Batch")
        output, errors = results(it, batch)
        billed = {entry["custom_id"] for entry in it.entries()}
        again = it.call("POST", f"/v1/batches/{batch_id}/cancel")
    assert batch["status"] == "cancelled"
    assert batch["cancelling_at"] <= batch["cancelled_at"]
    assert 0 < len(output) < 30
    assert billed == set(by_id(output))
    assert len(errors) == (30 - len(output) if tells else 0)
    assert {each["error"]["code"] for each in errors} <= {"batch_cancelled"}
    assert again.status == 409


def test_a_full_queue_fails_the_batch() -> None:
    """Prompt tokens of a model over all batches that are not over; when one is, the next one fits."""
    with running(art="flat", batch_queue_tokens=100, faults=["batch_stuck:match=hold"]) as it:
        held = submitted(it, lines_of(["word"] * 8), metadata={"job": "hold"})  # 8 x 7 tokens
        awaited(it, held, ["in_progress"])
        failed = finished(it, lines_of(["word"] * 8))
        assert finished(it, lines_of(["word"] * 8, model="gpt-image-2"))["status"] == "completed"
        assert finished(it, lines_of(["word"] * 6))["status"] == "completed"
        it.call("POST", f"/v1/batches/{held}/cancel")
        awaited(it, held)
        assert finished(it, lines_of(["word"] * 8))["status"] == "completed"
        alone = finished(it, lines_of(["word"] * 15))
    for batch in (failed, alone):
        (flaw,) = batch["errors"]["data"]
        assert (batch["status"], flaw["code"], flaw["line"]) == ("failed", "token_limit_exceeded", None)
        assert flaw["message"] == (
            "Enqueued token limit reached for gpt-image-1-mini in organization org-simulator. "
            "Limit: 100 enqueued tokens. Please try again once some in_progress batches have been completed."
        )


def test_a_batch_uses_up_nothing_of_the_online_limits() -> None:
    """Five lines, and the one image of this minute is still free."""
    with running(art="flat", images_per_minute=1) as it:
        assert finished(it, lines_of(["x"] * 5))["request_counts"]["completed"] == 5
        assert [it.generate().status for _ in range(2)] == [200, 429]


def test_who_deletes_the_input_file_does_not_end_its_batch() -> None:
    """It was opened when the batch was created."""
    with running(art="flat", batch_time_s=1.0) as it:
        file_id = uploaded(it, lines_of(["x"] * 5))
        batch_id = create(it, file_id).json["id"]
        assert it.call("DELETE", f"/v1/files/{file_id}").status == 200
        assert awaited(it, batch_id)["request_counts"]["completed"] == 5


@needs_openapi
def test_an_edit_starts_from_uploaded_files(clean: Peer) -> None:
    """Online and in a batch, by the same ids: the same inputs on the bill, and the batch at its own price."""
    base, hat = encoded(landscape(512, 512)), encoded(landscape(640, 512, hue=1))
    ids = [uploaded(clean, data, purpose="vision") for data in (base, hat)]
    mask_id = uploaded(clean, mask_of(512, 512, (0, 0, 256, 256)), purpose="vision")
    more: dict[str, Any] = {"images": [{"file_id": each} for each in ids], "mask": {"file_id": mask_id}}
    online = clean.edit_json(order("A hat on it", **more))
    assert online.status == 200, online.body
    bad = line("bad", url=EDITS, images=[{"file_id": "file-none"}])
    batch = finished(clean, line("good", "A hat on it", url=EDITS, **more) + bad, endpoint=EDITS)
    (good,), (refused,) = results(clean, batch)
    check_schema(good["response"]["body"], "ImagesResponse")
    assert Image.open(io.BytesIO(shots(good)[0])).size == (1024, 1024)
    error = refused["response"]["body"]["error"]
    assert (refused["response"]["status_code"], error["param"]) == (400, "images[0].file_id")
    first, second = clean.entries()
    assert [entry["sha256"] for entry in second["inputs"]] == [hashlib.sha256(data).hexdigest() for data in (base, hat)]
    for name in ("inputs", "mask", "input_image_tokens", "endpoint"):
        assert first[name] == second[name]
    usage = good["response"]["body"]["usage"]
    details = usage["input_tokens_details"]
    text, image, made = _PRICES["gpt-image-1-mini"][0]
    cost = details["text_tokens"] * text + details["image_tokens"] * image + usage["output_tokens"] * made
    assert details["image_tokens"] > 0
    assert second["cost_microusd"] == _half_up(cost)


def test_an_edit_in_a_batch_may_carry_its_pictures(peer: Peer) -> None:
    """Data URLs, as online; a file that shows nothing is the line's trouble alone."""
    url = "data:image/png;base64," + base64.b64encode(encoded(landscape(512, 512))).decode()
    text = uploaded(peer, b"no picture", purpose="vision")
    data = line("good", url=EDITS, images=[{"image_url": url}])
    data += line("bad", url=EDITS, images=[{"file_id": text}]) + line("none", url=EDITS)
    output, errors = results(peer, finished(peer, data, endpoint=EDITS))
    assert list(by_id(output)) == ["good"]
    codes = {name: each["response"]["body"]["error"]["code"] for name, each in by_id(errors).items()}
    assert codes == {"bad": "invalid_image_file", "none": "missing_required_parameter"}


def test_what_came_is_counted_and_can_be_forgotten(clean: Peer) -> None:
    """Each call, each file taken, each batch made: a proof that nothing was submitted twice. A reset ends it all."""
    data = lines_of(["x"])
    batch = finished(clean, data)
    uploaded(clean, b"x", purpose="vision")
    clean.call("GET", "/v1/files")
    upload(clean, b"x", purpose="none")
    shown = clean.call("GET", "/simulator/batches").json
    assert (shown["uploads"], shown["creates"]) == ({"batch": 1, "vision": 1}, 1)
    assert {name: shown["calls"][name] for name in ("upload", "create", "files")} == {
        "upload": 3,
        "create": 1,
        "files": 1,
    }
    assert [each["id"] for each in shown["batches"]] == [batch["id"]]
    assert shown["batches"][0]["input_sha256"] == hashlib.sha256(data).hexdigest()
    assert sorted(each["purpose"] for each in shown["files"]) == ["batch", "batch_output", "vision"]
    rule(clean, "batch_stuck")
    awaited(clean, submitted(clean, data), ["in_progress"])
    clean.call("POST", "/simulator/reset")
    shown = clean.call("GET", "/simulator/batches").json
    assert shown == {"uploads": {}, "creates": 0, "calls": {}, "files": [], "batches": []}
    assert clean.call("GET", f"/v1/batches/{batch['id']}").status == 404
    rule(clean)


@needs_proc
def test_memory_does_not_grow_with_the_lines() -> None:
    """2,000 images of 100 KB are 270 MB of output: they go to the disk and from it in a small part of that."""
    with running(art="flat", payload_kb=100) as it:
        finished(it, lines_of(["warm up"] * 8))
        before = it.peak_kb()
        batch = finished(it, lines_of([f"number {number}" for number in range(2000)]))
        assert batch["request_counts"]["completed"] == 2000
        assert len(content(it, batch["output_file_id"])) > 260_000_000
        assert it.peak_kb() - before < 40_000


def test_the_openai_client_speaks_to_it() -> None:
    """Upload, create, retrieve, list, cancel, a stream of the content, delete: as the SDK does it."""
    with running(art="flat", faults=["batch_stuck:match=hold"]) as it:
        client = openai.OpenAI(base_url=it.base_url, api_key="anything", max_retries=0)
        file = client.files.create(
            file=("night.jsonl", lines_of(["x", "y", "[[fault:moderation]]"])),
            purpose="batch",
            expires_after={"anchor": "created_at", "seconds": 7200},
        )
        assert (file.filename, file.purpose, file.expires_at) == ("night.jsonl", "batch", file.created_at + 7200)
        create_one = client.batches.create
        held = create_one(
            input_file_id=file.id, endpoint=GENERATIONS, completion_window="24h", metadata={"job": "hold"}
        )
        made = create_one(
            input_file_id=file.id,
            endpoint=GENERATIONS,
            completion_window="24h",
            metadata={"job": "night"},
            output_expires_after={"anchor": "created_at", "seconds": 7200},
        )
        awaited(it, made.id)
        batch = client.batches.retrieve(made.id)
        assert batch.request_counts and batch.request_counts.model_dump() == {"total": 3, "completed": 2, "failed": 1}
        assert batch.status == "completed" and batch.output_file_id and batch.error_file_id
        with client.files.with_streaming_response.content(batch.output_file_id) as streamed:
            lines = [json.loads(text) for text in streamed.iter_lines() if text]
        assert sorted(by_id(lines)) == ["line-0", "line-1"]
        assert "moderation_blocked" in client.files.content(batch.error_file_id).text
        assert [each.id for each in client.batches.list(limit=1)] == [made.id, held.id]
        assert client.batches.cancel(held.id).status == "cancelling"
        listed = list(client.files.list(purpose="batch", limit=1))
        assert [each.id for each in listed] == [file.id]
        assert client.files.delete(file.id).deleted
        with pytest.raises(openai.NotFoundError):
            client.files.retrieve(file.id)


def test_the_end_of_the_server_ends_its_batches_and_files(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of their lines, with nothing on stderr, and no file is left behind."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with running() as it:
        for data in (lines_of(["[[fault:delay=600]]"] * 2), lines_of(f"number {number}" for number in range(2000))):
            awaited(it, submitted(it, data), ["in_progress"])
        assert list(tmp_path.iterdir()) != []
        _, errors = it.process.communicate("", timeout=30)
        assert (it.process.returncode, errors) == (0, "")
        assert list(tmp_path.iterdir()) == []


def test_many_batches_at_once_are_all_worked_on(clean: Peer) -> None:
    """They share the hands of the server, and mix nothing up."""

    def one(number: int) -> Sequence[Any]:
        batch = finished(clean, lines_of([f"batch {number}, line {each}" for each in range(6)], size="1536x1024"))
        return [batch, results(clean, batch)[0]]

    with ThreadPoolExecutor(6) as threads:
        done = list(threads.map(one, range(6)))
    prompts = {(entry["batch_id"], entry["custom_id"]): entry for entry in clean.entries()}
    for number, (batch, output) in enumerate(done):
        for name, each in by_id(output).items():
            entry = prompts.pop((batch["id"], name))
            assert entry["prompt"] == f"batch {number}, line {name.removeprefix('line-')}"
            assert entry["images"] == [hashlib.sha256(file).hexdigest() for file in shots(each)]
    assert prompts == {}
