"""The simulator's Files API: what is uploaded is kept, told, read and deleted as the API does it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.simulator.depot import Depot
from runner.simulator.problems import Problem
from tests.edges.simulator_batch_support import content, upload, uploaded
from tests.edges.simulator_support import Answer, Part, Peer, check_schema, form, needs_openapi, needs_proc, running

DAYS_30_S = 2_592_000


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    with running() as it:
        yield it


@needs_openapi
def test_a_file_is_kept_told_and_deleted(peer: Peer) -> None:
    """Its bytes come back as they were; deleted, it is gone for every call."""
    data = bytes(range(256)) * 4000
    answer = upload(peer, data, purpose="vision", filename="hat.png")
    check_schema(answer.json, "OpenAIFile")
    file_id = answer.json["id"]
    told = {name: answer.json[name] for name in ("object", "bytes", "filename", "purpose")}
    assert told == {"object": "file", "bytes": len(data), "filename": "hat.png", "purpose": "vision"}
    assert peer.call("GET", f"/v1/files/{file_id}").json == answer.json
    assert content(peer, file_id) == data
    deleted = peer.call("DELETE", f"/v1/files/{file_id}")
    check_schema(deleted.json, "DeleteFileResponse")
    assert deleted.json == {"id": file_id, "object": "file", "deleted": True}
    for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        answer = peer.call(method, f"/v1/files/{file_id}{path}")
        assert (answer.status, answer.error["type"]) == (404, "invalid_request_error")


def test_only_files_of_batches_expire_by_themselves(peer: Peer) -> None:
    """30 days for a batch's, never for others, and whatever was asked for."""
    batch, vision = upload(peer, b"{}").json, upload(peer, b"x", purpose="vision").json
    assert batch["expires_at"] == batch["created_at"] + DAYS_30_S
    assert "expires_at" not in vision
    expiry = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    asked = upload(peer, b"x", purpose="vision", **expiry).json
    assert asked["expires_at"] == asked["created_at"] + 3600


def test_an_expired_file_is_gone() -> None:
    """From its last second on it is neither found, nor opened, nor listed, and its bytes are off the disk."""
    now = 1000.5
    depot = Depot(lambda: now)
    try:
        paths: list[Path] = []
        for expires_after_s in (3600, None):
            paths.append(depot.new_path())
            paths[-1].write_bytes(b"x")
            depot.keep(paths[-1], filename="x", purpose="vision", expires_after_s=expires_after_s)
        mortal, lasting = depot.all()
        now = 4599.9
        assert depot.find(mortal.id) == mortal
        now = 4600.0
        with pytest.raises(Problem) as caught:
            depot.find(mortal.id)
        assert caught.value.status == 404
        assert depot.open(mortal.id) is None
        assert list(depot.all()) == [lasting]
        assert [path.exists() for path in paths] == [False, True]
    finally:
        depot.clear()
    assert not paths[1].exists()


@needs_openapi
def test_files_are_listed_in_pages(peer: Peer) -> None:
    """Newest first or oldest first, of one purpose or all, with a cursor."""
    peer.call("POST", "/simulator/reset")
    empty = peer.call("GET", "/v1/files").json
    check_schema(empty, "ListFilesResponse")
    assert (empty["data"], empty["has_more"]) == ([], False)
    ids = [uploaded(peer, b"x", purpose=purpose) for purpose in ("vision", "batch", "vision", "user_data", "vision")]

    def listed(query: str) -> tuple[list[str], bool]:
        answer = peer.call("GET", f"/v1/files?{query}")
        check_schema(answer.json, "ListFilesResponse")
        names = [each["id"] for each in answer.json["data"]]
        assert (answer.json["first_id"], answer.json["last_id"]) == (names[0], names[-1])
        return names, answer.json["has_more"]

    assert listed("") == (ids[::-1], False)
    assert listed("order=asc") == (ids, False)
    assert listed("order=asc&purpose=vision") == ([ids[0], ids[2], ids[4]], False)
    assert listed("order=asc&limit=2") == (ids[:2], True)
    assert listed(f"order=asc&limit=2&after={ids[1]}") == (ids[2:4], True)
    assert listed(f"order=asc&limit=2&after={ids[2]}") == (ids[3:], False)
    assert listed(f"limit=3&after={ids[4]}") == (ids[1:4][::-1], True)


@pytest.mark.parametrize("query", ["limit=0", "limit=10001", "limit=x", "after=file-none", "order=up"])
def test_a_list_that_cannot_be_is_refused(peer: Peer, query: str) -> None:
    """400, naming the parameter."""
    answer = peer.call("GET", f"/v1/files?{query}")
    assert (answer.status, answer.error["param"]) == (400, query.partition("=")[0])


@pytest.mark.parametrize(
    ("parts", "param"),
    [
        ([("purpose", "batch_output"), ("file", b"x")], "purpose"),
        ([("file", b"x")], "purpose"),
        ([("purpose", "vision")], "file"),
        ([("purpose", "vision"), ("file", b"x"), ("file", b"y")], "file"),
        ([("purpose", "vision"), ("file", "a text")], "file"),
        ([("purpose", "vision"), ("file", b"x"), ("colour", "red")], "colour"),
        ([("purpose", "batch"), ("file", b"x")], "file"),
        ([("purpose", "vision"), ("file", b"x"), ("expires_after[seconds]", "7200")], "expires_after"),
        ([("purpose", "vision"), ("file", b"x"), ("expires_after[anchor]", "created_at")], "expires_after"),
        (
            [
                ("purpose", "vision"),
                ("file", b"x"),
                ("expires_after[anchor]", "created_at"),
                ("expires_after[seconds]", "3599"),
            ],
            "expires_after.seconds",
        ),
    ],
)
def test_an_upload_that_cannot_be_is_refused(peer: Peer, parts: list[Part], param: str) -> None:
    """400, naming the parameter; nothing is kept."""
    before = peer.call("GET", "/simulator/batches").json["uploads"]
    kind, data = form(parts)
    answer = peer.call("POST", "/v1/files", data, kind=kind)
    assert (answer.status, answer.error["param"]) == (400, param)
    assert peer.call("GET", "/simulator/batches").json["uploads"] == before


def test_an_upload_is_a_form(peer: Peer) -> None:
    """JSON has no file in it."""
    answer = peer.call("POST", "/v1/files", b"{}", kind="application/json")
    assert (answer.status, answer.error["code"]) == (400, "invalid_value")


def test_a_key_is_asked_for() -> None:
    """401 without one and with another, at each route of files and batches."""
    with running(api_key="right") as it:
        for method, path in (
            ("POST", "/v1/files"),
            ("GET", "/v1/files"),
            ("GET", "/v1/files/x"),
            ("DELETE", "/v1/files/x"),
            ("GET", "/v1/files/x/content"),
            ("POST", "/v1/batches"),
            ("GET", "/v1/batches"),
            ("GET", "/v1/batches/x"),
            ("POST", "/v1/batches/x/cancel"),
        ):
            assert [it.call(method, path, key=key).status for key in (None, "wrong")] == [401, 401], path
            assert it.call(method, path, key="right").status != 401, path


@pytest.mark.parametrize(
    ("asked", "begin", "end"),
    [
        ("bytes=0-", 0, 1000),
        ("bytes=600-", 600, 1000),
        ("bytes=600-699", 600, 700),
        ("bytes=999-5000", 999, 1000),
        ("bytes=-300", 700, 1000),
        ("bytes=-3000", 0, 1000),
        ("bytes=0-0", 0, 1),
    ],
)
def test_a_part_of_a_file_can_be_read(peer: Peer, asked: str, begin: int, end: int) -> None:
    """206 with exactly these bytes, and where they are from."""
    data = bytes(index % 251 for index in range(1000))
    file_id = uploaded(peer, data, purpose="vision")
    answer = _ranged(peer, file_id, asked)
    assert answer.status == 206
    assert answer.headers["content-range"] == f"bytes {begin}-{end - 1}/1000"
    assert answer.headers["content-length"] == str(end - begin)
    assert answer.body == data[begin:end]


@pytest.mark.parametrize("asked", ["bytes=1000-", "bytes=5000-6000"])
def test_a_part_behind_the_end_is_told(peer: Peer, asked: str) -> None:
    """416, with the file's length."""
    answer = _ranged(peer, uploaded(peer, bytes(1000), purpose="vision"), asked)
    assert (answer.status, answer.headers["content-range"]) == (416, "bytes */1000")


@pytest.mark.parametrize("asked", ["lines=1-2", "bytes=a-b", "bytes=5-2", "bytes=-", "bytes=0-1,5-6"])
def test_a_range_that_is_not_understood_is_passed_over(peer: Peer, asked: str) -> None:
    """200 and the whole file, as HTTP has it."""
    answer = _ranged(peer, uploaded(peer, bytes(1000), purpose="vision"), asked)
    assert (answer.status, len(answer.body)) == (200, 1000)


def _ranged(peer: Peer, file_id: str, asked: str) -> Answer:
    return peer.call("GET", f"/v1/files/{file_id}/content", more={"Range": asked})


@needs_proc
def test_a_file_is_not_in_memory() -> None:
    """200 MB for a batch are taken and one byte more is not; the server does not grow by a quarter of it."""
    with running() as it:
        before = it.peak_kb()
        file_id = uploaded(it, bytes(200_000_000))
        assert it.call("GET", f"/v1/files/{file_id}").json["bytes"] == 200_000_000
        assert _ranged(it, file_id, "bytes=199999999-").body == b"\0"
        answer = upload(it, bytes(200_000_001))
        assert (answer.status, answer.error["param"]) == (413, "file")
        assert it.peak_kb() - before < 50_000
