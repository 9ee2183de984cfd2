"""The store on S3 when the server or the way to it goes wrong: nothing counts before it is verified (law 2)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.errors import InputError, StoreError
from runner.store import ImageFacts, inventory_at, objects, output_at, store_at
from runner.store.bucket import BucketStore
from tests.edges.ledger_support import png
from tests.servers.ports import free_port
from tests.servers.s3 import S3, SECRET, s3
from tests.servers.s3_desk import Ground, at_s3
from tests.servers.s3_faults import Kind, Proxy, faulty

IMAGE = png(1)
PATH = "job/images/a.png"
DIGEST = hashlib.sha256(IMAGE).hexdigest()


@pytest.fixture(scope="module")
def server() -> Iterator[S3]:
    with s3() as running:
        yield running


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many tries, without the waits."""
    monkeypatch.setattr(objects, "PAUSES_S", (0.0,) * 4)


@pytest.fixture
def proxy(server: S3) -> Iterator[Proxy]:
    with faulty(server.endpoint) as running:
        yield running


@pytest.fixture
def ground(server: S3, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ground]:
    monkeypatch.setenv("RUNNER_SPOOL", str(tmp_path / "spool"))
    with at_s3(server, monkeypatch, endpoint=proxy.endpoint) as it:
        yield it


@pytest.fixture
def store(ground: Ground) -> BucketStore:
    """A store with one image in its spool."""
    it = ground.store()
    it.prepare()
    partial = it.partial(1)
    partial.write(IMAGE)
    partial.seal()
    return it


@pytest.mark.parametrize("kind", ["slow_down", "reset_request", "reset_answer", "wrong_checksum", "damaged_upload"])
def test_a_put_that_goes_wrong_is_made_again(store: BucketStore, ground: Ground, proxy: Proxy, kind: Kind) -> None:
    """And what lies there in the end is the image: also where the first put arrived, and only its answer did not."""
    proxy.fail(kind, times=2)
    store.place(1, PATH)
    assert [each for each, _ in proxy.failed] == [kind] * 2
    assert ground.tree() == {PATH: IMAGE}
    assert not store.partial_matches(1, DIGEST)


@pytest.mark.parametrize("kind", ["slow_down", "reset_request", "wrong_checksum", "damaged_upload"])
def test_a_put_that_goes_wrong_for_good_is_no_image(
    store: BucketStore, ground: Ground, proxy: Proxy, kind: Kind
) -> None:
    """It is an error, nothing has the name, and the bytes stay in the spool: the next try places them."""
    proxy.fail(kind, times=1000)
    with pytest.raises(StoreError) as caught:
        store.place(1, PATH)
    assert caught.value.hint is not None
    assert f"{ground.url}/{PATH}" in caught.value.message
    # A connection that was kept open and is reset is tried again by the client below as well.
    assert len(proxy.failed) in (len(objects.PAUSES_S) + 1, 2 * len(objects.PAUSES_S) + 2)
    assert ground.tree() == {}
    assert store.partial_matches(1, DIGEST)
    proxy.heal()
    store.place(1, PATH)
    assert ground.tree() == {PATH: IMAGE}


def test_another_image_that_came_first_is_no_put_of_ours(store: BucketStore, ground: Ground, proxy: Proxy) -> None:
    """A try whose answer was lost may have arrived: but then these very bytes lie there."""
    ground.spoil(PATH, b"another's")
    proxy.fail("reset_request", times=1)
    with pytest.raises(StoreError, match="exists already"):
        store.place(1, PATH)
    assert ground.tree() == {PATH: b"another's"}
    # Nobody looked before: between a look and a put it could have come.
    assert next(method for method, path in proxy.seen if path.endswith(PATH)) == "PUT"
    assert store.partial_matches(1, DIGEST)


def test_a_server_without_checksums_is_read_back(
    store: BucketStore, ground: Ground, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it tells of an ETag that is not the bytes' is not believed either: the bytes are."""
    monkeypatch.setattr("runner.store.s3._sha256", lambda _answer: None)
    store.place(1, PATH)
    assert proxy.count("GET", f"/{PATH}") == 1
    assert store.matches(PATH, DIGEST)
    assert proxy.count("GET", f"/{PATH}") == 2


@pytest.mark.parametrize("kind", ["slow_down", "damaged_answer", "cut_answer", "slow"])
def test_what_is_read_is_what_lies_there(store: BucketStore, ground: Ground, proxy: Proxy, kind: Kind) -> None:
    """An answer that is damaged or breaks off is asked for once more."""
    store.place(1, PATH)
    proxy.fail(kind, method="GET", times=2)
    with store.reading(PATH) as stream:
        assert stream.read() == IMAGE
    assert len(proxy.failed) == (1 if kind == "slow" else 2)


@pytest.mark.parametrize("kind", ["damaged_answer", "cut_answer"])
def test_what_comes_damaged_for_good_is_found(store: BucketStore, ground: Ground, proxy: Proxy, kind: Kind) -> None:
    """By whoever reads it; what the server says of it without reading is another question."""
    store.place(1, PATH)
    proxy.fail(kind, method="GET", times=1000)
    with pytest.raises(StoreError), store.reading(PATH):
        pass
    inventory = inventory_at(ground.bucket, "job")
    facts = ImageFacts("png", 16, 16, False)
    deep = inventory.look(PATH, sha256=DIGEST, size_bytes=len(IMAGE), facts=facts)
    assert deep.verdict == "unreadable"
    assert inventory.look(PATH, sha256=DIGEST, size_bytes=len(IMAGE)).verdict == "good"


def test_what_is_not_known_is_not_missing(store: BucketStore, ground: Ground, proxy: Proxy) -> None:
    """A server that does not answer has lost nothing."""
    store.place(1, PATH)
    inventory = inventory_at(ground.bucket, "job")
    proxy.fail("slow_down", method="HEAD", times=1000)
    assert inventory.look(PATH, sha256=DIGEST, size_bytes=len(IMAGE)).verdict == "unreadable"
    with pytest.raises(StoreError):
        store.matches(PATH, DIGEST)
    with pytest.raises(StoreError):
        store.occupied(PATH)


def test_a_copy_that_is_not_like_its_original_is_none(store: BucketStore, ground: Ground, proxy: Proxy) -> None:
    """It is removed, and the original stays."""
    store.place(1, PATH)
    proxy.fail("wrong_checksum", method="HEAD", match="/b.png", times=1000)
    with pytest.raises(StoreError, match="not like its original"):
        store.move(PATH, "job/images/b.png")
    assert ground.tree() == {PATH: IMAGE}


def test_a_log_that_cannot_be_put_stays_for_the_next_run(store: BucketStore, ground: Ground, proxy: Proxy) -> None:
    """It never stops one."""
    proxy.fail("slow_down", match="/logs/", times=1000)
    with store.log(1) as log:
        log.write("what it did\n")
    assert log.problem is not None
    proxy.heal()
    with store.log(2):
        pass
    assert ground.tree()["job/logs/run-000001.jsonl"] == b"what it did\n"


def test_a_bucket_that_is_not_there_is_told_before_anything_is_sent(ground: Ground) -> None:
    """With what to do; and nothing is said to be missing from it."""
    nowhere = output_at("s3://no-such-bucket-at-all/x")
    with pytest.raises(StoreError, match="there is no such bucket") as caught:
        store_at(nowhere, "job").prepare()
    assert "make the bucket" in str(caught.value.hint)
    with pytest.raises(StoreError, match="there is no such bucket"):
        inventory_at(nowhere, "job")


def test_a_server_that_does_not_answer_is_told(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its address, and without its keys."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(StoreError, match="cannot be reached") as caught:
        ground.store().prepare()
    assert SECRET not in str(caught.value)


def test_keys_that_are_missing_are_told(ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their place is the environment."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(StoreError, match="there are no keys") as caught:
        ground.store().prepare()
    assert "AWS_ACCESS_KEY_ID" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("s3://key:secret@bucket/x", "a user, a password or a query"),
        ("s3://bucket/x?token=secret", "a user, a password or a query"),
        ("s3://", "no place for images"),
        ("s3://bucket/../x", "no place for images"),
        ("s3://bucket//x", "no place for images"),
    ],
)
def test_a_url_that_names_no_place_is_refused_without_its_secret(url: str, told: str) -> None:
    """What is wrong with it may be that a key stands in it."""
    with pytest.raises(InputError, match=told) as caught:
        output_at(url)
    assert "secret" not in f"{caught.value}{caught.value.hint}"


def test_what_is_no_url_is_a_folder() -> None:
    """And so is a URL of one."""
    assert output_at("a/b") == Path("a/b")
    assert output_at("file:///a/b") == Path("/a/b")
    assert str(output_at("S3://Bucket/Prefix/")) == "s3://Bucket/Prefix"


@pytest.mark.parametrize("url", ["nobody://bucket/x", "gs://bucket/x"])
def test_a_place_that_nobody_can_open_is_told(url: str) -> None:
    """A package that is missing is an error that says what to install, never another place."""
    with pytest.raises(InputError) as caught:
        store_at(output_at(url), "job")
    assert caught.value.hint
