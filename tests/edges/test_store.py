"""What the store must hold: bytes as they came, durable before they have a name, and never lost on the way."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.errors import StoreError
from runner.store import BadImage, ImageFacts
from runner.store.folder import FolderStore
from tests.edges.ledger_support import png, tree

HEX = hashlib.sha256


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    it = FolderStore(tmp_path / "output", "job")
    it.prepare()
    return it


def received(store: FolderStore, attempt_id: int, data: bytes, chunk_bytes: int = 100) -> None:
    """Receive and seal an image."""
    partial = store.partial(attempt_id)
    for start in range(0, len(data), chunk_bytes):
        partial.write(data[start : start + chunk_bytes])
    partial.seal()


def placed(store: FolderStore, attempt_id: int, name: str, data: bytes) -> str:
    """Receive an image and give it its name; its path."""
    received(store, attempt_id, data)
    path = store.path(name)
    store.place(attempt_id, path)
    return path


@pytest.mark.parametrize("chunk_bytes", [1, 7, 1000, 10**6])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_an_image_is_written_byte_for_byte(store: FolderStore, kind: str, chunk_bytes: int) -> None:
    """Law 5: exactly what was received, however it was cut; hash, size and facts are of those bytes."""
    data = png(3, "48x32", kind)
    partial = store.partial(1)
    for start in range(0, len(data), chunk_bytes):
        partial.write(data[start : start + chunk_bytes])
    sealed = partial.seal()
    assert partial.path.read_bytes() == data
    assert (sealed.sha256, sealed.bytes) == (HEX(data).hexdigest(), len(data))
    assert sealed.facts == ImageFacts(kind.lower(), 48, 32, has_c2pa=False)


def test_a_short_write_is_continued(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 5: the system may take fewer bytes than it was given."""
    write, data = os.write, png()
    monkeypatch.setattr(os, "write", lambda descriptor, view: write(descriptor, view[:13]))
    partial = store.partial(1)
    partial.write(data)
    assert partial.seal().bytes == len(data)
    assert partial.path.read_bytes() == data


@pytest.mark.parametrize("cut", [0, 1, 8, 40, 0.5, -1])
def test_an_image_that_is_cut_is_never_sealed(store: FolderStore, cut: float) -> None:
    """Law 2: not whole, not an asset; discarding leaves nothing."""
    data = png()
    part = data[: int(len(data) * cut) if 0 < cut < 1 else int(cut)]
    partial = store.partial(1)
    partial.write(part)
    with pytest.raises(BadImage) as caught:
        partial.seal()
    assert caught.value.code == "incomplete_image"
    partial.discard()
    partial.discard()
    assert tree(store.output) == {}


def test_bytes_that_are_no_image_are_refused_at_once(store: FolderStore) -> None:
    """A page of HTML behind a 200 stops the attempt at its first bytes, and its bytes are not kept."""
    partial = store.partial(1)
    with pytest.raises(BadImage) as caught:
        partial.write(b"<html>service unavailable</html>")
    assert caught.value.code == "not_an_image"
    assert partial.path.read_bytes() == b""
    with pytest.raises(BadImage):
        partial.seal()
    partial.discard()
    assert tree(store.output) == {}


def test_a_partial_file_is_begun_afresh(store: FolderStore) -> None:
    """What lay under the temporary name before is none of this attempt's bytes."""
    (store.output / "job" / ".partial" / "1.part").write_bytes(b"x" * 10_000)
    received(store, 1, png())
    assert tree(store.output) == {"job/.partial/1.part": png()}


class Spy:
    """Writes down what is asked of the file system, by the paths that the descriptors stand for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
        self.calls: list[tuple[str, ...]] = []
        self._root = root
        for name in ("write", "fsync", "link", "rename", "unlink", "mkdir"):
            monkeypatch.setattr(os, name, self._watched(name, getattr(os, name)))

    def _watched(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **more: Any) -> Any:
            count = 2 if name in ("link", "rename") else 1
            self.calls.append((name, *(self._shown(each) for each in given[:count])))
            return real(*given, **more)

        return call

    def _shown(self, target: Any) -> str:
        path = Path(f"/proc/self/fd/{target}").readlink() if isinstance(target, int) else Path(target)
        return path.relative_to(self._root).as_posix()


@pytest.fixture
def spy(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> Spy:
    return Spy(monkeypatch, store.output)


def test_the_bytes_are_durable_before_they_have_a_name_and_the_name_before_it_counts(
    store: FolderStore, spy: Spy
) -> None:
    """Law 2: write, flush the file, rename, flush the folder, in this order."""
    data = png()
    partial = store.partial(1)
    partial.write(data)
    partial.seal()
    store.place(1, store.path("a.png"))
    assert spy.calls == [
        ("write", "job/.partial/1.part"),
        ("fsync", "job/.partial/1.part"),
        ("rename", "job/.partial/1.part", "job/images/a.png"),
        ("fsync", "job/images"),
    ]


def test_new_folders_are_durable_before_an_asset_lies_in_them(store: FolderStore, spy: Spy) -> None:
    """Law 2: a folder whose name is not flushed takes its files with it when the power fails."""
    received(store, 1, png())
    spy.calls.clear()
    store.place(1, store.path("x/y/a.png"))
    assert spy.calls == [
        ("mkdir", "job/images/x"),
        ("fsync", "job/images"),
        ("mkdir", "job/images/x/y"),
        ("fsync", "job/images/x"),
        ("rename", "job/.partial/1.part", "job/images/x/y/a.png"),
        ("fsync", "job/images/x/y"),
    ]


def test_what_a_dead_run_left_is_flushed_before_it_is_adopted(store: FolderStore, spy: Spy) -> None:
    """Law 2: nobody knows whether the dead run came to flush it."""
    (store.output / "job/.partial/5.part").write_bytes(png())
    assert store.examine_partial(5) is not None
    assert spy.calls == [("fsync", "job/.partial/5.part")]
    (store.output / "job/.partial/6.part").write_bytes(png()[:-1])
    assert store.examine_partial(6) is None
    assert store.examine_partial(7) is None


def test_a_link_and_a_removal_are_durable_too(store: FolderStore, spy: Spy) -> None:
    """Law 2: whoever records the new name, or forgets the old one, can rely on it."""
    path = placed(store, 1, "a.png", png())
    spy.calls.clear()
    store.link(path, store.path("b.png"))
    store.release(path)
    assert spy.calls == [
        ("link", "job/images/a.png", "job/images/b.png"),
        ("fsync", "job/images"),
        ("unlink", "job/images/a.png"),
        ("fsync", "job/images"),
    ]


@pytest.mark.parametrize("code", [errno.EPERM, errno.EXDEV, errno.EMLINK, errno.ENOTSUP])
def test_without_hard_links_the_bytes_are_copied_durably(
    store: FolderStore, spy: Spy, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Laws 2 and 5: exFAT, network shares and mounts have none; the copy is flushed before it gets its name."""
    path = placed(store, 1, "a.png", png())
    spy.calls.clear()

    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    store.link(path, store.path("b.png"))
    assert spy.calls == [
        ("fsync", "job/.partial/copy-b.png"),
        ("rename", "job/.partial/copy-b.png", "job/images/b.png"),
        ("fsync", "job/images"),
    ]
    assert tree(store.output) == {"job/images/a.png": png(), "job/images/b.png": png()}
    (store.output / store.path("c.png")).write_bytes(b"mine")
    with pytest.raises(StoreError, match="exists already"):
        store.link(path, store.path("c.png"))
    assert tree(store.output)["job/images/c.png"] == b"mine"


def test_a_link_that_fails_for_another_reason_is_an_error(store: FolderStore) -> None:
    """A source that is gone is no reason to copy."""
    with pytest.raises(StoreError):
        store.link(store.path("gone.png"), store.path("b.png"))
    assert tree(store.output) == {}


@pytest.mark.parametrize("how", ["file", "folder", "link", "dangling"])
@pytest.mark.parametrize("operation", ["place", "move", "link"])
def test_nothing_is_ever_overwritten(store: FolderStore, operation: str, how: str) -> None:
    """Law 5: whatever lies under the name stays, and the new bytes stay where they were."""
    there = store.output / store.path("a.png")
    if how == "file":
        there.write_bytes(b"somebody's")
    elif how == "folder":
        there.mkdir()
    else:
        target = store.output / "target"
        if how == "link":
            target.write_bytes(b"somebody's")
        there.symlink_to(target)
    old = placed(store, 1, "old.png", png(1))
    received(store, 2, png(2))
    before = tree(store.output)
    assert store.occupied(store.path("a.png"))
    call: dict[str, Callable[[], None]] = {
        "place": lambda: store.place(2, store.path("a.png")),
        "move": lambda: store.move(old, store.path("a.png")),
        "link": lambda: store.link(old, store.path("a.png")),
    }
    with pytest.raises(StoreError, match="exists already") as caught:
        call[operation]()
    assert caught.value.hint
    assert tree(store.output) == before


@pytest.mark.parametrize("name", ["sub/a.png", "sub/deeper/a.png"])
def test_a_folder_that_leads_outside_is_refused(store: FolderStore, tmp_path: Path, name: str) -> None:
    """Law 10: nothing is written, and no folder made, outside the job's own folder."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (store.output / "job/images/sub").symlink_to(outside)
    received(store, 1, png())
    calls: list[Callable[[], None]] = [
        lambda: store.place(1, store.path(name)),
        lambda: store.link(store.path("x.png"), store.path(name)),
        lambda: store.release(store.path("sub/a.png")),
    ]
    for call in calls:
        with pytest.raises(StoreError, match="symbolic link") as caught:
            call()
        assert caught.value.hint
    assert list(outside.iterdir()) == []
    assert tree(store.output) == {"job/.partial/1.part": png()}


def test_a_name_with_dots_cannot_climb_out(store: FolderStore) -> None:
    """Law 10: should a name ever come here unchecked."""
    received(store, 1, png())
    with pytest.raises(StoreError, match="outside"):
        store.place(1, store.path("../../../a.png"))
    assert tree(store.output) == {"job/.partial/1.part": png()}


def test_the_jobs_folder_itself_may_lie_on_another_disk(tmp_path: Path) -> None:
    """A person who links the whole folder elsewhere means it."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "job").symlink_to(tmp_path / "disk")
    store = FolderStore(tmp_path / "output", "job")
    store.prepare()
    placed(store, 1, "x/a.png", png())
    assert (tmp_path / "disk/images/x/a.png").read_bytes() == png()


@pytest.mark.parametrize("name", ["a.png", "café/Nacht ☕/日本.png", "deep/er/and/deeper/a.png", "x" * 200 + ".png"])
def test_names_with_folders_and_any_letters(store: FolderStore, name: str) -> None:
    """The manifest names the file; the store takes the name as it is."""
    path = placed(store, 1, name, png())
    assert tree(store.output) == {f"job/images/{name}": png()}
    assert store.matches(path, HEX(png()).hexdigest())
    aside = store.keep_aside(path, tag="7")
    store.release(path)
    assert tree(store.output) == {aside: png()}


def test_an_asset_that_is_kept_aside_is_reachable_at_every_step(store: FolderStore) -> None:
    """Law 5: nothing paid for is thrown away; stopped after any step, the bytes are there and it can be repeated."""
    path = placed(store, 1, "x/a.png", png())
    aside = store.keep_aside(path, tag="17")
    assert aside == "job/superseded/x/a~17.png"
    assert tree(store.output) == {path: png(), aside: png()}
    # Killed here, the next run begins again and finds the same place.
    assert store.keep_aside(path, tag="17") == aside
    assert tree(store.output) == {path: png(), aside: png()}
    store.release(path)
    assert tree(store.output) == {aside: png()}
    store.release(path)
    assert tree(store.output) == {aside: png()}


def test_what_was_kept_aside_before_stays(store: FolderStore) -> None:
    """A second file with the same tag gets a number; equal bytes are kept once."""
    asides = []
    for number in range(1, 4):
        path = placed(store, number, "a.png", png(number))
        asides.append(store.keep_aside(path, tag="unknown"))
        store.release(path)
    assert asides == [f"job/superseded/a~unknown{more}.png" for more in ("", "-2", "-3")]
    assert list(tree(store.output).values()) == [png(2), png(3), png(1)]
    path = placed(store, 9, "a.png", png(1))
    assert store.keep_aside(path, tag="unknown") == asides[0]


def test_matching_is_by_bytes(store: FolderStore) -> None:
    """A file that was changed, is a link, a folder, or is not there, does not match."""
    path, digest = placed(store, 1, "a.png", png()), HEX(png()).hexdigest()
    assert store.matches(path, digest)
    assert not store.matches(path, HEX(b"").hexdigest())
    assert not store.matches(store.path("gone.png"), digest)
    assert not store.matches(f"{path}/a.png", digest)
    assert not store.matches("job/images", digest)
    (store.output / "job/images/link.png").symlink_to(store.output / path)
    assert not store.matches(store.path("link.png"), digest)
    (store.output / path).write_bytes(png()[:-1] + b"\0")
    assert not store.matches(path, digest)
    received(store, 2, png())
    assert store.partial_matches(2, digest)
    assert not store.partial_matches(3, digest)


def test_examining_tells_what_a_file_is(store: FolderStore) -> None:
    """Whole images only; a text, a cut image, a folder and nothing at all are None."""
    found = store.examine(placed(store, 1, "a.png", png(4)))
    assert found is not None
    assert (found.sha256, found.bytes, found.facts.width) == (HEX(png(4)).hexdigest(), len(png(4)), 16)
    (store.output / "job/images/b.png").write_bytes(b"hello")
    (store.output / "job/images/c.png").write_bytes(png()[:-4])
    for name in ("b.png", "c.png", "gone.png", ".", "a.png/x.png"):
        assert store.examine(store.path(name)) is None


@pytest.mark.parametrize("call", [lambda s, p: s.matches(p, "0" * 64), lambda s, p: s.examine(p)])
def test_a_file_that_cannot_be_read_is_an_error_of_the_store(
    store: FolderStore, call: Callable[[FolderStore, str], object]
) -> None:
    """The system's own errors never reach a user bare."""
    with pytest.raises(StoreError, match="too long"):
        call(store, store.path("x" * 300))


def test_sweeping_removes_the_temporary_files_and_nothing_else(store: FolderStore) -> None:
    """Called by the holder of the lock, at the end of recovery."""
    placed(store, 1, "a.png", png())
    received(store, 2, png(2))
    (store.output / "job/.partial/copy-b.png").write_bytes(b"half")
    assert store.sweep() == 2
    assert tree(store.output) == {"job/images/a.png": png()}
    assert store.sweep() == 0
    assert FolderStore(store.output, "never").sweep() == 0


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_full_disk_is_told_with_what_to_do(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    """Nothing is sealed that the disk did not take, and the partial file goes."""
    partial = store.partial(1)

    def refuse(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(StoreError) as caught:
        partial.write(png())
        partial.seal()
    assert "make space" in (caught.value.hint or "")
    assert str(partial.path) in caught.value.message
    partial.discard()
    assert tree(store.output) == {}


_LIMITED = """
import json, resource, signal, sys
from pathlib import Path
from runner.errors import StoreError
from runner.store.folder import FolderStore

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = FolderStore(Path(sys.argv[1]), "job")
store.prepare()
partial = store.partial(1)
resource.setrlimit(resource.RLIMIT_FSIZE, (400, 400))
try:
    partial.write(sys.stdin.buffer.read())
except StoreError as error:
    print(json.dumps([error.message, error.hint]))
"""


def test_a_disk_that_takes_no_more_in_the_middle_of_an_image(tmp_path: Path) -> None:
    """The real system call, in a process whose files may not grow: part of the image is taken, then none."""
    done = subprocess.run([sys.executable, "-c", _LIMITED, str(tmp_path)], input=png(), capture_output=True, check=True)
    message, hint = json.loads(done.stdout)
    assert "1.part" in message
    assert "make space" in hint
    assert (tmp_path / "job/.partial/1.part").read_bytes() == png()[:400]


def test_folders_that_cannot_be_made_are_told(tmp_path: Path) -> None:
    """A file in the place of a folder: before anything is sent, and for a name's folder as well."""
    (tmp_path / "output").mkdir()
    (tmp_path / "output/job").write_text("a file")
    with pytest.raises(StoreError, match="job") as caught:
        FolderStore(tmp_path / "output", "job").prepare()
    assert caught.value.hint
    store = FolderStore(tmp_path / "output", "other")
    store.prepare()
    path = placed(store, 1, "a.png", png(1))
    received(store, 2, png(2))
    with pytest.raises(StoreError):
        store.place(2, f"{path}/b.png")
    assert tree(store.output / "other") == {"images/a.png": png(1), ".partial/2.part": png(2)}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    yield tmp_path


def test_a_relative_output_folder_works_like_an_absolute_one(here: Path) -> None:
    """The default is `output` in the current folder."""
    store = FolderStore(Path("output"), "job")
    store.prepare()
    path = placed(store, 1, "x/a.png", png())
    store.keep_aside(path, tag="1")
    assert tree(here) == {"output/job/images/x/a.png": png(), "output/job/superseded/x/a~1.png": png()}


def test_a_runs_log_is_appended_line_by_line(store: FolderStore) -> None:
    """A line is there as soon as it is written; opening it again goes on at its end."""
    file = store.output / "job/logs/run-000012.jsonl"
    with store.log(12) as log:
        log.write('{"type": "run_began"}\n')
        assert file.read_text() == '{"type": "run_began"}\n'
    with store.log(12) as log:
        log.write('{"name": "☕"}\n')
    assert file.read_text(encoding="utf-8").splitlines() == ['{"type": "run_began"}', '{"name": "☕"}']
