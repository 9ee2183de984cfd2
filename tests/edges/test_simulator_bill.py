"""The simulator's bill: an account that holds, whatever became of the answer."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import pytest

from tests.edges.simulator_support import Peer, running

# USD per million tokens (text in, image out) and tokens per image, written down here once more on purpose.
_PRICES = {"gpt-image-1-mini": (2, 8), "gpt-image-1.5": (5, 32), "gpt-image-2": (5, 30)}
_TOKENS = {
    ("gpt-image-1-mini", "low", "1024x1024"): 272,
    ("gpt-image-1-mini", "medium", "1536x1024"): 1568,
    ("gpt-image-1.5", "high", "1024x1536"): 6240,
    ("gpt-image-2", "medium", "1024x1024"): 1756,
}


@pytest.fixture
def peer() -> Iterator[Peer]:
    with running() as it:
        yield it


def _half_up(amount: Fraction) -> int:
    return (2 * amount.numerator + amount.denominator) // (2 * amount.denominator)


def test_the_bill_is_tokens_times_price(peer: Peer) -> None:
    """Every request costs its tokens at the catalog's rate; the total is the sum of the rounded requests."""
    total = 0
    for (model, quality, size), tokens in _TOKENS.items():
        for n in (1, 3):
            usage = peer.generate("A price to check", model=model, quality=quality, size=size, n=n).json["usage"]
            text, image = _PRICES[model]
            assert usage["output_tokens"] == tokens * n == usage["output_tokens_details"]["image_tokens"]
            assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
            cost = Fraction(usage["input_tokens"] * text + usage["output_tokens"] * image)
            assert peer.entries()[-1]["cost_microusd"] == _half_up(cost)
            total += _half_up(cost)
    bill = peer.bill()
    assert bill["cost_microusd"] == total == sum(model["cost_microusd"] for model in bill["by_model"].values())
    assert bill["images"] == 16
    assert bill["requests"] == bill["billed_requests"] == 8


def test_a_size_that_is_not_listed_costs_by_its_area(peer: Peer) -> None:
    """As many tokens per pixel as the dearest listed size, rounded up."""
    usage = peer.generate(model="gpt-image-2", size="1040x1040").json["usage"]
    assert usage["output_tokens"] == 203  # 196 * 1040 * 1040 / (1024 * 1024) = 202.17


def test_longer_prompts_take_more_tokens(peer: Peer) -> None:
    """The stand-in for the tokeniser grows with the text, and starts at the frame's six."""
    counts = [peer.generate(prompt).json["usage"]["input_tokens"] for prompt in ("a", "a cat", "a cat, two cats")]
    assert counts == [7, 8, 11]


def test_an_entry_says_what_was_made(peer: Peer) -> None:
    """Model, size, quality, prompt and the hash of every image, as they were delivered."""
    prompt = "word " * 100
    answer = peer.generate(prompt, n=2, quality="medium")
    (entry,) = peer.entries()
    assert entry["request_id"] == answer.headers["x-request-id"]
    assert entry["images"] == [hashlib.sha256(file).hexdigest() for file in answer.files()]
    assert entry["prompt_sha256"] == hashlib.sha256(prompt.encode()).hexdigest()
    assert (entry["model"], entry["size"], entry["quality"]) == ("gpt-image-1-mini", "1024x1024", "medium")
    assert entry["prompt"] == prompt[:200]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry["time"])
    assert entry["delivered"] == "whole"


def test_an_entry_is_on_record_before_the_first_byte_leaves(tmp_path: Path) -> None:
    """Whoever has seen a byte of an answer finds it billed, also when the rest never comes."""
    with running(bill_path=str(tmp_path / "bill.jsonl")) as it, it.raw("[[fault:stall]]") as connection:
        assert connection.recv(1)
        assert b"[[fault:stall]]" in (tmp_path / "bill.jsonl").read_bytes()


def test_a_client_that_goes_away_is_billed(peer: Peer) -> None:
    """The image was generated, so it costs; and the bill does not say that it arrived."""
    peer.raw("[[fault:delay=0.2]] never mind").close()
    while not peer.bill()["billed_requests"]:
        pass
    (entry,) = peer.entries()
    assert entry["delivered"] == "faulty"


def test_what_is_refused_is_counted_and_costs_nothing(peer: Peer) -> None:
    """Rejections are counted under their code; faults under their kind."""
    peer.generate("[[fault:moderation]]")
    peer.generate("[[fault:status=503]]")
    peer.generate(size="1x1")
    bill = peer.bill()
    assert bill["rejected"] == {"moderation_blocked": 1, "http_503": 1, "invalid_value": 1}
    assert bill["faults"] == {"moderation": 1, "status": 1}
    assert (bill["requests"], bill["billed_requests"], bill["cost_microusd"]) == (3, 0, 0)


def test_reset_empties_the_bill(peer: Peer) -> None:
    """After a reset the server is as it was at its start: no bill, and the first sample again."""
    first = peer.generate().files()
    assert peer.generate().files() != first
    peer.call("POST", "/simulator/reset")
    assert peer.entries() == []
    assert peer.bill()["requests"] == 0
    assert peer.generate().files() == first
    assert len(peer.entries()) == 1


def test_an_answer_under_way_at_a_reset_leaves_the_new_bill_alone() -> None:
    """What was billed before the reset is not amended into the entries after it."""
    # Far more than the sockets hold, so that the answer is still on its way while nobody reads it.
    with running(payload_kb=4000, art="flat") as it, it.raw("A wide answer", n=10) as connection:
        assert connection.recv(1)
        it.call("POST", "/simulator/reset")
        for number in range(4):
            it.generate(f"after {number}")
        before = it.entries()
        tail = b""
        while b'"total_tokens"' not in tail:
            tail = tail[-100:] + connection.recv(1 << 20)
        it.generate("last")
        assert it.entries()[:4] == before
        assert [entry["delivered"] for entry in it.entries()] == ["whole"] * 5


def test_a_bill_with_a_path_is_carried_on(tmp_path: Path) -> None:
    """Two servers after one another keep one account; what a kill left half written is dropped."""
    path = tmp_path / "deep" / "bill.jsonl"
    with running(bill_path=str(path)) as it:
        it.generate("first")
        cost = it.bill()["cost_microusd"]
    with path.open("ab") as file:
        file.write(b'{"request_id": "req_')
    with running(bill_path=str(path)) as it:
        it.generate("first")
        assert it.bill()["cost_microusd"] == 2 * cost
        assert [entry["prompt"] for entry in it.entries()] == ["first", "first"]


def test_six_hundred_requests_at_once_are_all_answered_and_billed() -> None:
    """Every answer is whole and is on the bill exactly once, with the bytes that arrived."""
    with running(art="flat", latency_s="0.5-1") as it:
        with ThreadPoolExecutor(600) as threads:
            answers = list(threads.map(lambda number: it.generate(f"number {number % 300}"), range(600)))
        arrived = {answer.headers["x-request-id"]: answer.files() for answer in answers}
        entries = {entry["request_id"]: entry for entry in it.entries()}
        assert len(arrived) == len(entries) == it.bill()["billed_requests"] == 600
        for request_id, files in arrived.items():
            assert entries[request_id]["images"] == [hashlib.sha256(file).hexdigest() for file in files]
            assert entries[request_id]["delivered"] == "whole"
        assert len({files[0] for files in arrived.values()}) == 600
