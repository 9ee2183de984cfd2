"""Every fault does on the wire what its name says, and the bill holds through all of them."""

from __future__ import annotations

import gzip
import http.client
import io
import json
import socket
from collections.abc import Callable, Iterator

import pytest
from PIL import Image

from runner.errors import InputError
from runner.simulator.faults import KINDS, Faults
from tests.edges.simulator_support import Answer, Peer, order, running


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    with running() as it:
        yield it


def _refused(status: int, code: str | None, type_: str = "invalid_request_error") -> Callable[[Peer, str], bool]:
    def holds(peer: Peer, kind: str) -> bool:
        answer = peer.generate(f"[[fault:{kind}]]")
        assert (answer.status, answer.error["code"], answer.error["type"]) == (status, code, type_)
        return False

    return holds


def _answered(check: Callable[[Answer], None]) -> Callable[[Peer, str], bool]:
    def holds(peer: Peer, kind: str) -> bool:
        answer = peer.generate(f"[[fault:{kind}]] a prompt", quality="high")
        assert answer.status == 200
        check(answer)
        return True

    return holds


def _rate_limit(peer: Peer, kind: str) -> bool:
    waits = {"rate_limit": "1", "rate_limit=7": "7", "rate_limit=absurd": "86400", "rate_limit=none": None}
    for marker, wait in waits.items():
        answer = peer.generate(f"[[fault:{marker}]]")
        assert (answer.status, answer.error["code"]) == (429, "rate_limit_exceeded")
        assert answer.headers.get("retry-after") == wait
    return False


def _moderation(peer: Peer, kind: str) -> bool:
    _refused(400, "moderation_blocked", "image_generation_user_error")(peer, kind)
    assert peer.generate("[[fault:moderation]]").error["moderation_details"]["categories"]
    return False


def _delay(peer: Peer, kind: str) -> bool:
    with peer.raw("[[fault:delay=600]]") as connection:
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(1)
    answer = peer.generate("[[fault:delay=0.1]]")
    assert answer.images()
    assert int(answer.headers["openai-processing-ms"]) >= 100
    return True


def _hang(peer: Peer, kind: str) -> bool:
    with peer.raw("[[fault:hang]]") as connection:
        connection.settimeout(0.5)
        with pytest.raises(TimeoutError):
            connection.recv(1)
    return True


def _read(connection: socket.socket) -> tuple[bytes, str]:
    """What came, and how it ended: `eof`, `reset` or `silence`."""
    data = b""
    while True:
        try:
            piece = connection.recv(1 << 16)
        except ConnectionResetError:
            return data, "reset"
        except TimeoutError:
            return data, "silence"
        if not piece:
            return data, "eof"
        data += piece


def _half_body(end: str) -> Callable[[Peer, str], bool]:
    def holds(peer: Peer, kind: str) -> bool:
        with peer.raw(f"[[fault:{kind}]]") as connection:
            connection.settimeout(0.7 if end == "silence" else 30)
            data, ended = _read(connection)
        head, _, body = data.partition(b"\r\n\r\n")
        assert ended == end
        assert head.startswith(b"HTTP/1.1 200")
        (length,) = (int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if b"content-length" in line)
        assert 0 < len(body) < length
        return True

    return holds


def _reset(peer: Peer, kind: str) -> bool:
    with peer.raw("[[fault:reset]]") as connection:
        assert _read(connection) == (b"", "reset")
    return True


def _truncated_json(answer: Answer) -> None:
    assert len(answer.body) == int(answer.headers["content-length"])
    assert answer.body.startswith(b'{"created"')
    with pytest.raises(json.JSONDecodeError):
        _ = answer.json


def _empty(answer: Answer) -> None:
    assert (answer.body, answer.headers["content-length"]) == (b"", "0")


def _not_json(answer: Answer) -> None:
    with pytest.raises(json.JSONDecodeError):
        _ = answer.json


def _bad_base64(answer: Answer) -> None:
    with pytest.raises(ValueError, match=r"base64|alphabet"):
        answer.files()


def _no_data(answer: Answer) -> None:
    assert "data" not in answer.json
    assert answer.json["usage"]["output_tokens"] == 4160


def _not_image(answer: Answer) -> None:
    assert answer.files()[0].startswith(b"This is a text")


def _wrong_size(answer: Answer) -> None:
    assert answer.json["size"] == "1024x1024"
    assert answer.images()[0].size == (512, 512)


def _wrong_format(answer: Answer) -> None:
    assert answer.json["output_format"] == "png"
    assert answer.images()[0].format == "JPEG"


def _truncated_image(answer: Answer) -> None:
    (file,) = answer.files()
    assert file.startswith(b"\x89PNG") and b"IEND" not in file
    with pytest.raises(OSError, match="truncated"):
        Image.open(io.BytesIO(file)).load()


def _missing_usage(answer: Answer) -> None:
    assert "usage" not in answer.json
    assert answer.images()


def _zero_usage(answer: Answer) -> None:
    usage = answer.json["usage"]
    assert (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]) == (0, 0, 0)
    assert answer.images()


def _escaped(answer: Answer) -> None:
    assert b"\\/" in answer.body and b"\\u002b" in answer.body and b"\n\t" in answer.body
    assert "x_gateway" in answer.json
    assert answer.images()[0].size == (1024, 1024)


def _gzip(answer: Answer) -> None:
    assert answer.headers["content-encoding"] == "gzip"
    plain = Answer(answer.status, answer.headers, gzip.decompress(answer.body))
    assert plain.images()[0].size == (1024, 1024)


def _url(peer: Peer, kind: str) -> bool:
    answer = peer.generate("[[fault:url]]", n=2)
    for each in answer.json["data"]:
        assert set(each) == {"url"}
        path = each["url"].removeprefix(f"http://{peer.address[0]}:{peer.address[1]}")
        assert Image.open(io.BytesIO(peer.call("GET", path, key=None).body)).size == (1024, 1024)
    assert peer.call("GET", "/simulator/images/..%2Fetc").status == 404
    return True


_WHAT_HOLDS: dict[str, Callable[[Peer, str], bool]] = {
    "status": _refused(500, None, "server_error"),
    "rate_limit": _rate_limit,
    "insufficient_quota": _refused(429, "insufficient_quota", "insufficient_quota"),
    "billing_hard_limit": _refused(400, "billing_hard_limit_reached", "billing_limit_user_error"),
    "invalid_api_key": _refused(401, "invalid_api_key"),
    "unverified": _refused(403, None),
    "model_not_found": _refused(404, "model_not_found"),
    "moderation": _moderation,
    "invalid_request": _refused(400, "invalid_value"),
    "delay": _delay,
    "hang": _hang,
    "stall": _half_body("silence"),
    "cut": _half_body("eof"),
    "reset": _reset,
    "reset_body": _half_body("reset"),
    "truncated_json": _answered(_truncated_json),
    "empty": _answered(_empty),
    "not_json": _answered(_not_json),
    "bad_base64": _answered(_bad_base64),
    "no_data": _answered(_no_data),
    "not_image": _answered(_not_image),
    "wrong_size": _answered(_wrong_size),
    "wrong_format": _answered(_wrong_format),
    "truncated_image": _answered(_truncated_image),
    "missing_usage": _answered(_missing_usage),
    "zero_usage": _answered(_zero_usage),
    "escaped": _answered(_escaped),
    "gzip": _answered(_gzip),
    "url": _url,
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_does_what_it_says(peer: Peer, kind: str) -> None:
    """On the wire as it is named; billed exactly if an image was generated, and then noted under its kind."""
    before = peer.bill()["billed_requests"]
    is_billed = _WHAT_HOLDS[kind](peer, kind)
    bill = peer.bill()
    if kind == "hang":
        # Nothing arrives that would tell when it was generated.
        while bill["billed_requests"] == before:
            bill = peer.bill()
    assert (bill["billed_requests"] > before) == is_billed
    assert bill["faults"][kind] >= 1
    if is_billed and kind != "delay":
        entry = peer.entries()[-1]
        assert entry["delivered"] == kind
        assert entry["cost_microusd"] > 0


@pytest.mark.parametrize(
    ("status", "code"), [(401, "invalid_api_key"), (404, "model_not_found"), (429, "rate_limit_exceeded"), (503, None)]
)
def test_a_status_comes_with_its_usual_body(peer: Peer, status: int, code: str | None) -> None:
    """The status fault answers in the documented shape of that status."""
    answer = peer.generate(f"[[fault:status={status}]]")
    assert (answer.status, answer.error["code"]) == (status, code)


def test_a_bad_gateway_answers_with_a_page(peer: Peer) -> None:
    """502 is a proxy's HTML."""
    answer = peer.generate("[[fault:status=502]]")
    assert (answer.status, answer.headers["content-type"].split(";")[0]) == (502, "text/html")
    assert answer.body.startswith(b"<html>")


def test_a_request_can_be_lost_before_anything_was_generated(peer: Peer) -> None:
    """`unbilled` makes a reset or a hang one that costs nothing: a client cannot tell the two apart."""
    before = peer.bill()["billed_requests"]
    with peer.raw("[[fault:reset=unbilled]]") as connection:
        assert _read(connection) == (b"", "reset")
    assert peer.bill()["billed_requests"] == before


def test_an_empty_list_of_data_can_be_asked_for(peer: Peer) -> None:
    """`no_data` knows both ways to have none."""
    assert peer.generate("[[fault:no_data=empty]]").json["data"] == []


def test_a_marker_with_a_count_strikes_that_often(peer: Peer) -> None:
    """`*2`: the first two requests of that prompt, and none of another prompt's; one marker after another."""
    first, other = "[[fault:status*2]][[fault:empty*1]] first", "[[fault:status*1]] other"
    assert [peer.generate(first).status for _ in range(3)] == [500, 500, 200]
    assert peer.generate(first).images()
    assert [peer.generate(other).status for _ in range(2)] == [500, 200]


def test_an_unknown_marker_is_refused_with_the_nearest_word(peer: Peer) -> None:
    """A test with a misspelt fault must not pass for want of it."""
    answer = peer.generate("[[fault:resett]]")
    assert (answer.status, answer.error["param"]) == (400, "prompt")
    assert "did you mean reset?" in answer.error["message"]


def test_a_connection_is_kept_after_a_whole_answer(peer: Peer) -> None:
    """Keep-alive holds through errors and odd but whole answers."""
    connection = http.client.HTTPConnection(*peer.address, timeout=30)
    sockets = set()
    for marker in ("", "[[fault:moderation]]", "[[fault:escaped]]", "[[fault:truncated_json]]", ""):
        body = json.dumps(order(f"{marker} kept"))
        connection.request("POST", "/v1/images/generations", body, {"Authorization": "Bearer x"})
        connection.getresponse().read()
        assert connection.sock is not None
        sockets.add(connection.sock.getsockname())
    connection.close()
    assert len(sockets) == 1


def test_rules_are_replaced_at_run_time() -> None:
    """POST replaces, GET shows how often each was seen and fired; a rule that is not understood changes nothing."""
    with running(faults=["status:times=1"]) as it:
        assert [it.generate().status for _ in range(2)] == [500, 200]
        rules = it.call("GET", "/simulator/faults").json["rules"]
        assert rules == [{"rule": "status:times=1", "seen": 2, "fired": 1}]
        posted = it.call("POST", "/simulator/faults", {"rules": ["status:value=503,match=cat"]})
        assert posted.status == 200
        assert it.call("POST", "/simulator/faults", {"rules": ["sttus"]}).status == 400
        assert (it.generate("a cat").status, it.generate("a dog").status) == (503, 200)
        it.call("POST", "/simulator/faults", {"rules": []})
        assert it.generate("a cat").status == 200


def _series(rules: list[str], prompts: list[str], seed: int = 0) -> list[str | None]:
    faults = Faults(seed, rules)
    verdicts = [faults.decide(prompt) for prompt in prompts]
    return [verdict.fault.kind if verdict.fault else None for verdict in verdicts]


def test_after_and_times_count_matching_requests() -> None:
    """Two pass, two are hit, the rest pass; prompts that do not match are not counted."""
    prompts = ["a", "x", "a", "a", "x", "a", "a"]
    assert _series(["cut:after=2,times=2,match=^a$"], prompts) == [None, None, None, "cut", None, "cut", None]


def test_a_share_is_met_and_repeatable() -> None:
    """About the share is hit; the same seed hits the same requests, another seed others."""
    prompts = ["p"] * 2000
    first = _series(["cut:share=0.05"], prompts)
    assert 60 < sum(kind is not None for kind in first) < 140
    assert first == _series(["cut:share=0.05"], prompts)
    assert first != _series(["cut:share=0.05"], prompts, seed=1)


def test_a_regex_may_hold_commas_and_colons() -> None:
    """Only a comma before the next option ends a value."""
    assert _series(["cut:match=a{1,2}:b,times=1"], ["aa:b", "aa:b"]) == ["cut", None]


def test_the_first_rule_that_strikes_decides_and_delays_add_up() -> None:
    """At most one fault per request besides its delay."""
    verdict = Faults(0, ["delay:value=1", "cut", "reset", "delay:value=0.5"]).decide("p")
    assert verdict.fault and verdict.fault.kind == "cut"
    assert verdict.delay_s == 1.5


@pytest.mark.parametrize(
    ("rule", "word"),
    [
        ("resett", "did you mean reset"),
        ("status:value=200", "400 to 599"),
        ("delay:value=soon", "seconds"),
        ("cut:value=1", "no value"),
        ("cut:share=2", "0 to 1"),
        ("cut:share=x", "0 to 1"),
        ("cut:after=-1", "0 or more"),
        ("cut:match=(", "regex"),
        ("cut:sometimes", "KIND"),
    ],
)
def test_a_rule_that_is_not_understood_says_what_would_be(rule: str, word: str) -> None:
    """Nothing is guessed: the error names the rule and the way to write it."""
    with pytest.raises(InputError) as caught:
        Faults(0, [rule])
    assert rule in caught.value.message
    assert word in f"{caught.value.message} {caught.value.hint}"
