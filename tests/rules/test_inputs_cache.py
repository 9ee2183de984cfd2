"""What is kept between runs: found again, never believed when it is damaged, and gone in the end."""

from __future__ import annotations

import atexit
import json
import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import IO

import pytest

from runner.inputs import Inputs, Mask, Prepare, Ready, default_cache, preparing
from runner.inputs import cache as module
from runner.inputs.cache import Recent
from runner.inputs.reading import Facts, Place, decoding
from tests.rules.inputs_support import Desk, new_desk, noise, opened, refused, smooth

SMALL = Prepare(max_side=16, format="webp")


@pytest.fixture
def here(tmp_path: Path) -> Desk:
    return new_desk(tmp_path)


def kept(folder: Path) -> list[str]:
    """The converted files in a cache."""
    return sorted(path.name for path in folder.iterdir() if path.suffix in (".png", ".jpg", ".webp"))


def test_it_lies_in_the_users_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """XDG_CACHE_HOME if it is absolute, ~/.cache otherwise; nobody else may look into it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache() == tmp_path / "xdg" / "runner" / "inputs"
    assert default_cache().stat().st_mode & 0o077 == 0
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_cache() == tmp_path / "home" / ".cache" / "runner" / "inputs"


def test_without_a_cache_folder_the_work_goes_on(here: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder of this process: where there is none, and where there cannot be one."""
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    private = default_cache()
    assert private.is_dir()
    assert private.stat().st_mode & 0o077 == 0
    assert tmp_path not in private.parents or "runner-inputs-" in private.name
    name = here.put("a.png", smooth((64, 64)))
    for inputs in (Inputs(here.base), Inputs(here.base, tmp_path / "file" / "below")):
        ready = inputs.image(name, SMALL)
        assert ready.path.parent == private
        assert opened(ready.path).size == (16, 16)
        assert inputs.fetch(ready.source) == ready


def test_what_another_has_kept_is_found_where_nothing_can_be_written(
    here: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache that was filled and then made read-only still saves the work."""
    name = here.put("a.png", smooth((64, 64)))
    first = here.inputs().image(name, SMALL)

    def refuse(*_: object) -> Path:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module, "_write_all", refuse)
    assert here.inputs().image(name, SMALL) == first
    with refused("was converted, and the result cannot be written: Permission denied", hint="XDG_CACHE_HOME"):
        here.inputs().image(name, Prepare(max_side=8))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # later Pythons warn; it is what is tested
def test_a_child_leaves_the_private_folder_to_its_parent() -> None:
    """A process that was forked ends before the one whose files lie there."""
    folder = module.private_folder()
    child = os.fork()
    if child == 0:
        try:
            atexit._run_exitfuncs()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert folder.is_dir()


def damage(path: Path) -> dict[str, Callable[[], object]]:
    """What can happen to a file that lies about for months."""
    beside = path.with_name(f"{path.name}.json")
    size = path.stat().st_size

    def in_its_place(put: Callable[[], None]) -> Callable[[], None]:
        def done() -> None:
            path.unlink()
            put()

        return done

    return {
        "empty": lambda: path.write_bytes(b""),
        "cut": lambda: os.truncate(path, size - 1),
        "zeros": lambda: path.write_bytes(bytes(size)),
        "longer": lambda: path.write_bytes(path.read_bytes() + b"\0"),
        "gone": path.unlink,
        "a folder": in_its_place(path.mkdir),
        "a link": in_its_place(lambda: path.symlink_to("/dev/zero")),
        "no note": beside.unlink,
        "an empty note": lambda: beside.write_bytes(b""),
        "both empty": lambda: (path.write_bytes(b""), beside.write_bytes(json.dumps({"bytes": 0}).encode())),
        "a note of nonsense": lambda: beside.write_bytes(b"[[[[" * 1000),
        "another note": lambda: beside.write_bytes(b'{"bytes": "many", "sha256": 3}'),
        "a list": lambda: beside.write_bytes(b"[1]"),
    }


@pytest.mark.parametrize(
    "how",
    [
        "empty",
        "cut",
        "zeros",
        "longer",
        "gone",
        "a link",
        "no note",
        "an empty note",
        "both empty",
        "a note of nonsense",
        "another note",
        "a list",
    ],
)
def test_a_damaged_file_is_made_again(here: Desk, how: str) -> None:
    """By the process that had verified it, and by others; with the same identity."""
    name = here.put("a.png", smooth((64, 64)))
    inputs = here.inputs()
    first = inputs.image(name, SMALL)
    whole = first.path.read_bytes()
    damage(first.path)[how]()
    assert here.inputs().image(name, SMALL) == first
    assert first.path.read_bytes() == whole
    if "note" not in how and how != "a list":
        damage(first.path)[how]()
        assert inputs.fetch(first.source) == first
        assert first.path.read_bytes() == whole


def test_a_folder_in_the_place_of_a_file_stops_nobody(here: Desk) -> None:
    """What cannot be replaced is made elsewhere."""
    name = here.put("a.png", smooth((64, 64)))
    first = here.inputs().image(name, SMALL)
    whole = first.path.read_bytes()
    damage(first.path)["a folder"]()
    again = here.inputs().image(name, SMALL)
    assert again.input == first.input
    assert again.path.read_bytes() == whole


def test_nonsense_in_place_of_a_check_is_not_believed(here: Desk) -> None:
    """The file is checked again, and the note is whole afterwards."""
    name = here.put("a.png", noise((20, 10)))
    first = here.inputs().image(name)
    (note,) = here.cache.glob("checks/*/*.json")
    whole = json.loads(note.read_bytes())
    lying = json.loads(note.read_bytes())
    lying[0]["facts"]["width"] = 7
    for text in (b"", b"{}", b"[]", b"[1, 2]", b"null", b"\xff", b"[" * 5000, json.dumps(lying).encode()):
        note.write_bytes(text)
        assert here.inputs().image(name) == first
        again = json.loads(note.read_bytes())
        assert again[0]["facts"] == whole[0]["facts"]


def test_the_whole_cache_can_go_at_any_time(here: Desk) -> None:
    """Also while it is used: what it held is made again."""
    name = here.put("a.jpg", smooth((64, 48)))
    mask = Mask(box=(0, 0, 9, 9))
    inputs = here.inputs()
    first = inputs.image(name, SMALL), inputs.mask(mask, name, SMALL)
    shutil.rmtree(here.cache)
    assert tuple(inputs.fetch(ready.source) for ready in first) == first
    assert all(ready.path.is_file() for ready in first)


def test_what_nobody_uses_is_removed_in_the_end(here: Desk) -> None:
    """After thirty days, looked for once a day; what is used stays, and so does what is not ours."""
    old, used = here.put("old.png", smooth((64, 64))), here.put("used.png", smooth((60, 60)))
    first = here.inputs()
    gone, stays = first.image(old, SMALL), first.image(used, SMALL)
    (here.cache / "letter.txt").write_text("not ours")
    (here.cache / ".x.part").write_text("left by a dead process")
    ages = module.KEPT_S - 1000
    for path in here.cache.rglob("*"):
        if path.is_file():
            os.utime(path, (path.stat().st_atime, path.stat().st_mtime - ages))
    later = here.inputs(ahead_ns=2000 * 10**9)
    later.image(used, SMALL)
    assert gone.path.exists()
    later.image(here.put("new.png", smooth((50, 50))), SMALL)
    assert not gone.path.exists()
    assert not gone.path.with_name(f"{gone.path.name}.json").exists()
    assert not (here.cache / ".x.part").exists()
    assert stays.path.exists()
    assert (here.cache / "letter.txt").exists()
    assert later.fetch(gone.source) == gone


def test_a_days_second_process_does_not_look_again(here: Desk) -> None:
    """To look through many thousand files is work."""
    here.inputs().image(here.put("a.png", smooth((64, 64))), SMALL)
    (here.cache / ".x.part").write_text("left by a dead process")
    os.utime(here.cache / ".x.part", (1, 1))
    here.inputs().image(here.put("b.png", smooth((60, 60))), SMALL)
    assert (here.cache / ".x.part").exists()


def test_threads_share_the_work(here: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight that want the same picture have it converted once, and each has the same answer."""
    name = here.put("a.png", smooth((640, 480)))
    inputs = here.inputs()
    made: list[int] = []
    changed = preparing.changed

    def counted(file: IO[bytes], place: Place, facts: Facts, what: preparing.Change) -> bytes:
        made.append(1)
        return changed(file, place, facts, what)

    monkeypatch.setattr(preparing, "changed", counted)
    together = threading.Barrier(8)

    def one(_: int) -> Ready:
        together.wait()
        return inputs.image(name, SMALL)

    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(one, range(8)))
    assert len(found) == len(made) == 1


def _prepared(given: Desk) -> Ready:
    return given.inputs().image("a.png", SMALL)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # later Pythons warn; it is what is tested
def test_a_child_can_decode_whatever_its_parent_was_doing(here: Desk) -> None:
    """A worker that was forked while a thread decoded would otherwise wait for ever."""
    name = here.put("a.png", smooth((64, 64)))
    with ThreadPoolExecutor(1) as pool:
        busy, done = threading.Event(), threading.Event()

        def hold() -> None:
            with decoding():
                busy.set()
                done.wait()

        held = pool.submit(hold)
        busy.wait()
        process = multiprocessing.get_context("fork").Process(target=here.inputs().image, args=(name, SMALL))
        process.start()
        process.join(30)
        process.kill()
        done.set()
        held.result()
    process.join()
    assert process.exitcode == 0


def test_processes_share_the_cache(here: Desk) -> None:
    """All have the same picture, and no half-written file is left."""
    here.put("a.png", smooth((640, 480)))
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = set(pool.map(_prepared, [here] * 8))
    assert len(found) == 1
    assert not list(here.cache.rglob("*.part"))
    assert len(kept(here.cache)) == 1


def test_what_is_remembered_is_bounded() -> None:
    """The least recently used is forgotten first: any number of files fits."""
    recent: Recent[int, int] = Recent(3)
    for number in range(10):
        recent.put(number, number)
        recent.get(0)
    assert len(recent) == 3
    assert recent.get(0) == 0
    assert recent.get(7) is None
    assert recent.get(9) == 9


def test_many_more_files_than_are_remembered(here: Desk) -> None:
    """They come from the notes on disk, by which each is checked once all the same."""
    names = [here.put(f"{number}.png", noise((2, 2), seed=number)) for number in range(30)]
    inputs = here.inputs()
    for recent in (inputs._cache._notes, inputs._cache._verified):
        recent._most = 4
    plain = [inputs.image(name) for name in names]
    small = [inputs.image(name, Prepare(max_side=1)) for name in names]
    assert [inputs.image(name) for name in names] == plain
    assert [inputs.fetch(ready.source) for ready in small] == small
    assert len(inputs._cache._notes) == len(inputs._cache._verified) == 4
    assert len(list(here.cache.glob("checks/*/*.json"))) == 30
