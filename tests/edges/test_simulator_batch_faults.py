"""Every fault of a line, a batch or a call does what its name says, and the bill holds through all of them."""

from __future__ import annotations

import io
import json
import socket
from collections.abc import Iterator

import pytest
from PIL import Image

from runner.simulator.faults import BODY, CALLS, REFUSALS, WIRE
from tests.edges.simulator_batch_support import (
    GENERATIONS,
    awaited,
    by_id,
    content,
    finished,
    lines_of,
    results,
    retrieved,
    rule,
    shots,
    submitted,
    uploaded,
)
from tests.edges.simulator_support import (
    Peer,
    form,
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


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_refusal_is_the_same_in_a_line(peer: Peer, kind: str) -> None:
    """The body that the same request has online."""
    prompt = f"[[fault:{kind}]]"
    batch = finished(peer, lines_of([prompt]))
    ((each,), online) = results(peer, batch)[1], peer.generate(prompt)
    assert each["error"] is None
    assert each["response"]["status_code"] == online.status
    assert each["response"]["body"] == online.json


@pytest.mark.parametrize("kind", [kind for kind in BODY if kind not in ("truncated_json", "gzip")])
def test_an_odd_answer_is_odd_in_a_line(clean: Peer, kind: str) -> None:
    """Billed, noted under its kind, and a line of JSON by itself; its neighbours are whole."""
    batch = finished(clean, lines_of(["before", f"[[fault:{kind}]] it", "behind"]))
    lines = by_id(results(clean, batch)[0])
    body = lines["line-1"]["response"]["body"]
    match kind:
        case "empty":
            assert body is None
        case "not_json":
            assert body == "upstream says: OK\n"
        case "no_data":
            assert "data" not in body
        case "bad_base64":
            with pytest.raises(ValueError, match=r"base64|alphabet"):
                shots(lines["line-1"])
        case "missing_usage":
            assert "usage" not in body
        case "zero_usage":
            assert body["usage"]["total_tokens"] == 0
        case "url":
            url = body["data"][0]["url"].partition("/simulator")
            assert clean.call("GET", url[1] + url[2], key=None).body.startswith(b"\x89PNG")
        case _:
            online = clean.generate(f"[[fault:{kind}]] it").files()
            assert len(shots(lines["line-1"])[0]) == len(online[0])
    assert all(Image.open(io.BytesIO(shots(lines[name])[0])).size == (1024, 1024) for name in ("line-0", "line-2"))
    delivered = {entry["custom_id"]: entry["delivered"] for entry in clean.entries() if entry["custom_id"]}
    assert delivered == {"line-0": "whole", "line-1": kind, "line-2": "whole"}


@pytest.mark.parametrize("kind", ["truncated_json", "broken_line"])
def test_a_broken_line_is_no_json(clean: Peer, kind: str) -> None:
    """It ends in the middle of its image, and its neighbours are whole lines."""
    batch = finished(clean, lines_of(["before", f"[[fault:{kind}]] it", "behind"]))
    assert batch["status"] == "completed"
    lines = content(clean, batch["output_file_id"]).splitlines()
    broken = [each for each in lines if b'"line-1"' in each]
    assert (len(lines), len(broken)) == (3, 1)
    assert len(broken[0]) > 10_000
    with pytest.raises(json.JSONDecodeError):
        json.loads(broken[0])
    assert sorted(json.loads(each)["custom_id"] for each in lines if each not in broken) == ["line-0", "line-2"]
    assert clean.bill()["billed_requests"] == 3


@pytest.mark.parametrize("kind", [*WIRE, "gzip"])
def test_what_spoils_a_connection_is_passed_over_in_a_line(clean: Peer, kind: str) -> None:
    """Uncounted: a marker with a count strikes when the same prompt comes online."""
    batch = finished(clean, lines_of([f"[[fault:{kind}*1]]"]))
    assert shots(results(clean, batch)[0][0])
    assert clean.bill()["faults"] == {}
    assert clean.entries()[0]["delivered"] == "whole"


def test_lines_can_be_missing_or_there_twice(clean: Peer) -> None:
    """What the counts say is no proof: a missing line may have been billed or not."""
    marks = ["fine", "[[fault:missing_line]]", "[[fault:missing_line=unbilled]]", "[[fault:double_line]]"]
    batch = finished(clean, lines_of(marks))
    assert batch["status"] == "completed"
    assert batch["request_counts"] == {"total": 4, "completed": 4, "failed": 0}
    output, errors = results(clean, batch)
    assert (sorted(each["custom_id"] for each in output), errors) == (["line-0", "line-3", "line-3"], [])
    first, second = (shots(each) for each in output if each["custom_id"] == "line-3")
    assert first == second
    assert sorted(entry["custom_id"] for entry in clean.entries()) == ["line-0", "line-1", "line-3"]


def test_a_line_that_expires_is_not_billed_and_can_be_had_online(clean: Peer) -> None:
    """No response and `batch_expired`; the batch is `expired`; the same prompt gets its image online."""
    prompts = ["fine", "[[fault:expired]] late"]
    batch = finished(clean, lines_of(prompts))
    assert batch["status"] == "expired"
    assert batch["expired_at"] >= batch["created_at"]
    output, (late,) = results(clean, batch)
    assert list(by_id(output)) == ["line-0"]
    assert (late["custom_id"], late["response"], late["error"]["code"]) == ("line-1", None, "batch_expired")
    assert clean.bill()["billed_requests"] == 1
    online = clean.generate(prompts[1])
    assert online.images()
    clean.call("POST", "/simulator/reset")
    assert clean.generate(prompts[1]).files() == online.files(), "it was the first of its kind that was made"


def test_rules_strike_lines_by_share_and_place() -> None:
    """`only=batch` leaves online alone and the other way round; equal seeds strike equal lines, in equal order."""
    rules = ["moderation:only=batch,share=0.3", "expired:share=0.3", "status:only=online"]

    def run(seed: int) -> tuple[list[str], list[str]]:
        with running(art="flat", faults=rules, seed=seed) as it:
            assert it.generate().status == 500
            output, errors = results(it, finished(it, lines_of([f"number {number}" for number in range(40)])))
        refused = [each["custom_id"] for each in errors if each["response"]]
        expired = [each["custom_id"] for each in errors if not each["response"]]
        assert len(output) + len(refused) + len(expired) == 40
        assert 4 < len(refused) < 22 and 2 < len(expired) < 20
        return sorted(refused), sorted(expired)

    first = run(1)
    assert run(1) == first
    assert run(2) != first


def test_a_long_line_is_not_overtaken(clean: Peer) -> None:
    """Lines meet their faults in the order of their turns, however long it takes to read one."""
    struck = []
    for long in ("x", "\u00e9" * 31_000):
        clean.call("POST", "/simulator/reset")
        rule(clean, "expired:times=8")
        batch = finished(clean, lines_of([long, "x"] * 12))
        struck.append({each["custom_id"] for each in results(clean, batch)[1]})
    assert len(struck[0]) == 8
    assert struck[0] == struck[1]
    rule(clean)


def test_a_batch_can_fail_on_request(clean: Peer) -> None:
    """With a code, at a line; `match` chooses by metadata, and `times` lets the next one through."""
    rule(clean, "batch_fails:value=invalid_request@2,times=1,match=night")
    assert finished(clean, lines_of(["x", "y"]), metadata={"job": "day"})["status"] == "completed"
    failed = finished(clean, lines_of(["x", "y"]), metadata={"job": "night"})
    flaw = failed["errors"]["data"][0]
    assert (failed["status"], flaw["code"], flaw["line"]) == ("failed", "invalid_request", 2)
    assert finished(clean, lines_of(["x", "y"]), metadata={"job": "night"})["status"] == "completed"
    rule(clean)


def test_a_batch_can_expire_with_a_share_of_it_done(clean: Peer) -> None:
    """What was done is there and billed; the rest is told as expired, or not at all."""
    rule(clean, "batch_expires:value=0.25", "batch_hides:match=quiet")
    for job, told in (("loud", 6), ("quiet", 0)):
        batch = finished(clean, lines_of(["x"] * 8), metadata={"job": job})
        output, errors = results(clean, batch)
        assert (batch["status"], len(output), len(errors)) == ("expired", 2, told)
        assert {each["error"]["code"] for each in errors} <= {"batch_expired"}
        assert len({*by_id(output), *by_id(errors)}) == 2 + told
    assert clean.bill()["billed_requests"] == 4
    rule(clean)


@pytest.mark.parametrize(("status", "done"), [("validating", 0), ("in_progress", 0), ("finalizing", 3)])
def test_a_batch_can_be_stuck_until_it_is_cancelled(clean: Peer, status: str, done: int) -> None:
    """It never leaves its state by itself; cancelled, what was done is there."""
    rule(clean, f"batch_stuck:value={status}")
    batch_id = submitted(clean, lines_of(["x"] * 3))
    awaited(clean, batch_id, [status])
    if done:
        assert clean.bill()["billed_requests"] == done
    cancelled = clean.call("POST", f"/v1/batches/{batch_id}/cancel")
    assert (cancelled.status, cancelled.json["status"]) == (200, "cancelling")
    batch = awaited(clean, batch_id)
    output, errors = results(clean, batch)
    assert (batch["status"], len(output), errors) == ("cancelled", done, [])
    assert clean.bill()["billed_requests"] == done
    rule(clean)


def _acts(peer: Peer) -> dict[str, tuple[str, str, bytes | None, str | None]]:
    """One request for each call: method, path, body, type of the body."""
    file_id = uploaded(peer, lines_of(["x"]))
    batch_id = submitted(peer, lines_of(["x"]), metadata={"job": "hold"})
    kind, data = form([("purpose", "vision"), ("file", b"x")])
    asked = {"input_file_id": file_id, "endpoint": GENERATIONS, "completion_window": "24h"}
    return {
        "upload": ("POST", "/v1/files", data, kind),
        "delete": ("DELETE", f"/v1/files/{uploaded(peer, b'x', purpose='vision')}", None, None),
        "create": ("POST", "/v1/batches", json.dumps(asked).encode(), "application/json"),
        "cancel": ("POST", f"/v1/batches/{batch_id}/cancel", None, None),
        "files": ("GET", "/v1/files", None, None),
        "file": ("GET", f"/v1/files/{file_id}", None, None),
        "content": ("GET", f"/v1/files/{file_id}/content", None, None),
        "batches": ("GET", "/v1/batches", None, None),
        "retrieve": ("GET", f"/v1/batches/{batch_id}", None, None),
    }


def _done(peer: Peer) -> tuple[int, int, int, int]:
    """What the calls that act have done: files there are and ever were, batches, and those that are being cancelled."""
    shown = peer.call("GET", "/simulator/batches").json
    cancelled = sum("cancelling_at" in batch for batch in shown["batches"])
    inputs = [each for each in shown["files"] if each["purpose"] != "batch_output"]
    return len(inputs), sum(shown["uploads"].values()), shown["creates"], cancelled


@pytest.mark.parametrize("value", [None, "before"])
@pytest.mark.parametrize("end", ["429", "500", "reset", "hang"])
@pytest.mark.parametrize("call", ["upload", "delete", "create", "cancel"])
def test_a_call_that_acts_can_go_wrong_before_or_behind_its_act(
    clean: Peer, call: str, end: str, value: str | None
) -> None:
    """The answer is the same; whether it was done shows only to who looks. A 429 was never done."""
    if end == "429" and value:
        assert clean.call("POST", "/simulator/faults", {"rules": [f"{call}_429:value=before"]}).status == 400
        return
    rule(clean, "batch_stuck:match=hold")
    act = _acts(clean)[call]
    rule(clean, f"{call}_{end}" + (f":value={value}" if value else ""))
    before = _done(clean)
    _fails(clean, act, end)
    changed = [new - old for old, new in zip(before, _done(clean), strict=True)]
    is_done = end != "429" and value is None
    effect = {"upload": [1, 1, 0, 0], "delete": [-1, 0, 0, 0], "create": [0, 0, 1, 0], "cancel": [0, 0, 0, 1]}[call]
    assert changed == (effect if is_done else [0, 0, 0, 0])
    assert clean.bill()["faults"][f"{call}_{end}"] == 1
    rule(clean)


@pytest.mark.parametrize("end", ["429", "500", "reset", "hang"])
@pytest.mark.parametrize("call", ["files", "file", "content", "batches", "retrieve"])
def test_a_call_that_looks_can_go_wrong(clean: Peer, call: str, end: str) -> None:
    """And works the next time."""
    method, path, data, kind = _acts(clean)[call]
    rule(clean, f"{call}_{end}:times=1")
    _fails(clean, (method, path, data, kind), end)
    assert clean.call(method, path, data, kind=kind).status == 200
    rule(clean)


def _fails(peer: Peer, act: tuple[str, str, bytes | None, str | None], end: str) -> None:
    method, path, data, kind = act
    if end in ("429", "500"):
        answer = peer.call(method, path, data, kind=kind)
        assert answer.status == int(end)
        assert ("retry-after" in answer.headers) == (end == "429")
        return
    head = f"{method} {path} HTTP/1.1\r\nHost: simulator\r\nAuthorization: Bearer x\r\n"
    head += f"Content-Type: {kind}\r\nContent-Length: {len(data or b'')}\r\n\r\n"
    with socket.create_connection(peer.address, timeout=30) as connection:
        connection.sendall(head.encode() + (data or b""))
        if end == "reset":
            with pytest.raises(ConnectionResetError):
                connection.recv(1)
        else:
            connection.settimeout(0.3)
            with pytest.raises(TimeoutError):
                connection.recv(1)


def test_content_can_be_cut_gone_or_whole(clean: Peer) -> None:
    """Cut after its share with the length of the whole announced; 404; and whole although a range was asked for."""
    data = bytes(index % 251 for index in range(1_000_000))
    file_id = uploaded(clean, data, purpose="vision")
    path = f"/v1/files/{file_id}/content"
    rule(clean, "content_cut:value=0.3,times=2", "content_gone:times=1", "content_whole:times=1")
    for begin in (0, 400_000):
        head = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x\r\nRange: bytes={begin}-\r\n\r\n"
        with socket.create_connection(clean.address, timeout=30) as connection:
            connection.sendall(head.encode())
            received = b""
            while piece := connection.recv(1 << 16):
                received += piece
        told, _, body = received.partition(b"\r\n\r\n")
        length = len(data) - begin
        assert told.startswith(b"HTTP/1.1 206") and f"content-length: {length}\r\n".encode() in told.lower()
        assert body == data[begin : begin + length * 3 // 10]
    assert clean.call("GET", path).status == 404
    whole = clean.call("GET", path, more={"Range": "bytes=5-9"})
    assert (whole.status, whole.body) == (200, data)
    assert clean.call("GET", path, more={"Range": "bytes=5-9"}).body == data[5:10]
    rule(clean)


def test_every_fault_of_a_call_is_tried() -> None:
    """The kinds that the tests above go through are all that there are."""
    calls = ("upload", "delete", "create", "cancel", "files", "file", "content", "batches", "retrieve")
    tried = {f"{call}_{end}" for call in calls for end in ("429", "500", "reset", "hang")}
    assert tried | {"batches_late", "content_cut", "content_gone", "content_whole"} == set(CALLS)


def test_a_list_can_be_late(clean: Peer) -> None:
    """It lacks what was created just now, which is there by its id; a moment later it has it."""
    rule(clean, "batches_late:times=1")
    batch_id = submitted(clean, lines_of(["x"]))
    assert clean.call("GET", "/v1/batches").json["data"] == []
    assert retrieved(clean, batch_id)["id"] == batch_id
    assert [each["id"] for each in clean.call("GET", "/v1/batches").json["data"]] == [batch_id]
    rule(clean)


@pytest.mark.parametrize(
    ("rule", "word"),
    [
        ("batch_fails:value=a b", "CODE@LINE"),
        ("batch_stuck:value=over", "finalizing"),
        ("batch_expires:value=2", "0 to 1"),
        ("content_cut:value=x", "0 to 1"),
        ("retrieve_reset:value=before", "no value"),
        ("upload_reset:value=after", "before"),
        ("moderation:value=x", "output"),
        ("missing_line:value=x", "unbilled"),
        ("moderation:only=lines", "online or batch"),
        ("batch_fails:only=batch", "online or batch"),
        ("upload_resett", "did you mean upload_reset"),
    ],
)
def test_a_rule_that_is_not_understood_is_refused(peer: Peer, rule: str, word: str) -> None:
    """With what would be."""
    answer = peer.call("POST", "/simulator/faults", {"rules": [rule]})
    assert answer.status == 400
    assert word in answer.error["message"]


@pytest.mark.parametrize("kind", ["batch_fails", "create_500"])
def test_a_marker_that_could_never_strike_is_refused(peer: Peer, kind: str) -> None:
    """A fault of batches or calls is no prompt's."""
    answer = peer.generate(f"[[fault:{kind}]]")
    assert (answer.status, answer.error["param"]) == (400, "prompt")
