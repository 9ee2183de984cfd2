"""What must hold when something else lies where the runner writes: links that lead away, pipes, folders, devices.

Nothing outside the job's folder is written, cut, moved or removed, and nothing is waited for.
"""

from __future__ import annotations

import hashlib
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runner.errors import StoreError
from runner.ledger import Ledger
from runner.store.folder import FolderStore
from tests.edges.ledger_support import png, tree
from tests.edges.simulator_support import Peer, running
from tests.engine.command_support import Desk

VICTIM = b"somebody else's, and the only copy\n" * 40


@pytest.fixture(autouse=True)
def never_for_ever() -> Iterator[None]:
    """A pipe that is waited for fails its test, and does not hold up the whole suite."""

    def give_up(*_: object) -> None:
        raise TimeoutError("something was waited for")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    it = FolderStore(tmp_path / "output", "job")
    it.prepare()
    return it


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder of a stranger's, with files that have the names of ours."""
    folder = tmp_path / "outside"
    folder.mkdir()
    for name in ("1.part", "a.png", "run-000001.jsonl", "copy-b.png"):
        (folder / name).write_bytes(VICTIM)
    return folder


def unharmed(outside: Path) -> bool:
    return tree(outside) == dict.fromkeys(("1.part", "a.png", "copy-b.png", "run-000001.jsonl"), VICTIM)


def receive(store: FolderStore, attempt_id: int = 1) -> None:
    partial = store.partial(attempt_id)
    partial.write(png())
    partial.seal()


def write_log(store: FolderStore) -> None:
    with store.log(1) as log:
        log.write("{}\n")


def replaced(folder: Path, outside: Path) -> None:
    """Let a link to `outside` lie where `folder` was."""
    if folder.is_dir():
        folder.rmdir()
    folder.symlink_to(outside)


@pytest.mark.parametrize("dangling", [False, True])
@pytest.mark.parametrize("name", ["images", ".partial", "logs", "superseded"])
def test_a_folder_that_leads_elsewhere_is_found_before_anything_is_sent(
    store: FolderStore, outside: Path, name: str, dangling: bool
) -> None:
    """Each of the four; nothing is made at the other end either."""
    replaced(store.output / "job" / name, outside / "nowhere" if dangling else outside)
    with pytest.raises(StoreError, match="symbolic link") as caught:
        FolderStore(store.output, "job").prepare()
    assert f"job/{name}" in caught.value.message
    assert caught.value.hint
    assert unharmed(outside)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        (".partial", lambda store: store.sweep()),
        (".partial", lambda store: store.partial(1)),
        ("logs", write_log),
        ("logs", lambda store: store.has_run_logs()),
    ],
)
def test_a_folder_that_leads_elsewhere_later_is_not_followed(
    store: FolderStore, outside: Path, name: str, call: Callable[[FolderStore], object]
) -> None:
    """Planted while a run is going: sweeping would remove a stranger's files."""
    replaced(store.output / "job" / name, outside)
    with pytest.raises(StoreError, match="symbolic link"):
        call(store)
    assert unharmed(outside)


def test_the_temporary_files_are_not_the_assets(store: FolderStore) -> None:
    """A link inside the job's folder: to sweep it would remove every image that was paid for."""
    receive(store)
    store.place(1, store.path("a.png"))
    replaced(store.output / "job/.partial", store.output / "job/images")
    with pytest.raises(StoreError, match="symbolic link"):
        store.sweep()
    assert tree(store.output)["job/images/a.png"] == png()


def test_an_image_is_not_placed_through_a_link_inside_the_job(store: FolderStore) -> None:
    """Two names of a manifest would be one file."""
    (store.output / "job/images/x").mkdir()
    (store.output / "job/images/y").symlink_to("x")
    receive(store)
    with pytest.raises(StoreError, match="symbolic link"):
        store.place(1, store.path("y/a.png"))
    assert list((store.output / "job/images/x").iterdir()) == []


def test_an_image_is_not_moved_out_of_a_strangers_folder(store: FolderStore, outside: Path) -> None:
    """A folder of assets was replaced by a link: what lies behind it is not ours to take."""
    (store.output / "job/images/x").symlink_to(outside)
    with pytest.raises(StoreError, match="symbolic link"):
        store.move(store.path("x/a.png"), store.path("b.png"))
    assert unharmed(outside)


@pytest.mark.parametrize("how", ["link", "hard link", "dangling", "pipe", "socket", "device"])
def test_a_temporary_file_is_always_a_new_one(store: FolderStore, outside: Path, how: str) -> None:
    """Whatever lay under its name loses that name; what it led to is not touched."""
    path = store.output / "job/.partial/1.part"
    plant(path, how, outside)
    receive(store)
    assert path.lstat().st_nlink == 1
    assert path.read_bytes() == png()
    assert unharmed(outside)


def plant(path: Path, how: str, outside: Path) -> None:
    """Let something that is no file of ours lie at `path`."""
    if how == "link":
        path.symlink_to(outside / "1.part")
    elif how == "hard link":
        path.hardlink_to(outside / "1.part")
    elif how == "dangling":
        path.symlink_to(outside / "nowhere")
    elif how == "pipe":
        os.mkfifo(path)
    elif how == "socket":
        with socket.socket(socket.AF_UNIX) as it:
            here = Path.cwd()
            os.chdir(path.parent)
            it.bind(path.name)
            os.chdir(here)
    elif how == "device":
        path.symlink_to("/dev/full")
    else:
        path.mkdir()


def test_a_folder_in_the_place_of_a_temporary_file_is_an_error(store: FolderStore) -> None:
    """It is not removed: nobody knows what it is; sweeping passes it over."""
    plant(store.output / "job/.partial/1.part", "folder", Path())
    with pytest.raises(StoreError, match=r"1\.part") as caught:
        store.partial(1)
    assert caught.value.hint
    receive(store, 2)
    assert store.sweep() == 1
    assert (store.output / "job/.partial/1.part").is_dir()


@pytest.mark.parametrize("how", ["link", "dangling", "pipe", "socket", "device", "folder"])
def test_what_is_no_file_is_no_image_and_is_not_waited_for(store: FolderStore, outside: Path, how: str) -> None:
    """Neither adopted nor taken for an asset; sweeping removes the name alone."""
    (outside / "1.part").write_bytes(png())
    for path in ("job/.partial/1.part", "job/images/a.png"):
        plant(store.output / path, how, outside)
    digest = hashlib.sha256(png()).hexdigest()
    assert store.examine_partial(1) is None
    assert not store.partial_matches(1, digest)
    assert store.examine(store.path("a.png")) is None
    assert not store.matches(store.path("a.png"), digest)
    assert store.occupied(store.path("a.png"))
    assert store.sweep() == (how != "folder")
    assert (outside / "1.part").read_bytes() == png()


@pytest.mark.parametrize("how", ["link", "dangling", "pipe", "device"])
def test_what_lies_at_a_wanted_name_is_kept_aside_as_it_is(store: FolderStore, outside: Path, how: str) -> None:
    """The link, not what it leads to; and nothing is read."""
    path = store.path("a.png")
    plant(store.output / path, how, outside)
    before = (store.output / path).lstat()
    asides = {store.keep_aside(path, tag="unknown"), store.keep_aside(path, tag="unknown")}
    store.release(path)
    for aside in asides:
        assert (store.output / aside).lstat().st_ino == before.st_ino
    assert not store.occupied(path)
    assert unharmed(outside)


def test_two_links_are_never_taken_for_the_same_file(store: FolderStore, outside: Path) -> None:
    """The name of the first would be given up as if it lay elsewhere as well."""
    path = store.path("a.png")
    plant(store.output / path, "link", outside)
    first = store.keep_aside(path, tag="unknown")
    store.release(path)
    (store.output / path).symlink_to(outside / "a.png")
    second = store.keep_aside(path, tag="unknown")
    store.release(path)
    assert first != second
    assert [(store.output / each).readlink().name for each in (first, second)] == ["1.part", "a.png"]


def test_a_folder_at_a_wanted_name_is_an_error_that_says_so(store: FolderStore) -> None:
    """With whatever is in it."""
    (store.output / store.path("a.png")).mkdir()
    with pytest.raises(StoreError, match="is a folder") as caught:
        store.keep_aside(store.path("a.png"), tag="unknown")
    assert "move it away" in (caught.value.hint or "")
    assert (store.output / store.path("a.png")).is_dir()


@pytest.mark.parametrize("how", ["link", "dangling", "device"])
def test_a_log_is_not_written_through_a_link(store: FolderStore, outside: Path, how: str) -> None:
    """It would be appended to a stranger's file."""
    folder = store.output / "job/logs"
    folder.mkdir()
    plant(folder / "run-000001.jsonl", how, outside)
    with pytest.raises(StoreError, match="symbolic link") as caught:
        write_log(store)
    assert caught.value.hint
    assert unharmed(outside)


@pytest.mark.parametrize("how", ["pipe", "socket", "folder"])
def test_where_no_log_can_be_written_there_is_none(store: FolderStore, outside: Path, how: str) -> None:
    """Nothing is waited for, the run goes on, and whoever wants to can say why."""
    folder = store.output / "job/logs"
    folder.mkdir()
    plant(folder / "run-000001.jsonl", how, outside)
    with store.log(1) as log:
        log.write("{}\n")
        assert log.problem is not None
        assert "run-000001.jsonl" in log.problem


def test_a_line_that_was_torn_is_ended_before_the_next(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that was full for a while costs lines, never the form of the others."""
    write = os.write
    with store.log(1) as log:
        log.write('{"n": 1}\n')
        monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:4]))
        log.write('{"n": 2}\n')
        monkeypatch.setattr(os, "write", write)
        log.write('{"n": 3, "name": "\udc80"}\n')
    lines = (store.output / "job/logs/run-000001.jsonl").read_text().splitlines()
    assert lines == ['{"n": 1}', '{"n"', '{"n": 3, "name": "\\udc80"}']


def test_copies_are_made_through_new_files_as_well(
    store: FolderStore, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there are no hard links, the copy's temporary name may be a planted link."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(1, "no")

    receive(store, 7)
    store.place(7, store.path("a.png"))
    monkeypatch.setattr(os, "link", refuse)
    (store.output / "job/.partial/copy-b.png").symlink_to(outside / "copy-b.png")
    store.link(store.path("a.png"), store.path("b.png"))
    assert tree(store.output)["job/images/b.png"] == png()
    assert not (store.output / store.path("b.png")).is_symlink()
    (store.output / store.path("l.png")).symlink_to(outside / "a.png")
    with pytest.raises(StoreError, match="not a file"):
        store.link(store.path("l.png"), store.path("c.png"))
    assert unharmed(outside)


def test_whether_runs_were_logged_is_seen(store: FolderStore) -> None:
    """What tells a lost ledger from a first run."""
    assert not store.has_run_logs()
    (store.output / "job/logs").mkdir()
    (store.output / "job/logs/notes.txt").write_text("mine")
    assert not store.has_run_logs()
    write_log(store)
    assert store.has_run_logs()
    assert not FolderStore(store.output, "other").has_run_logs()
    (store.output / "third").mkdir()
    (store.output / "third/logs").write_text("a file")
    assert not FolderStore(store.output, "third").has_run_logs()


# --- in a whole run


@pytest.fixture(scope="module")
def server() -> Iterator[Peer]:
    with running(art="flat") as peer:
        yield peer


@pytest.fixture
def desk(
    server: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Desk]:
    server.call("POST", "/simulator/reset")
    yield Desk(tmp_path, server, monkeypatch, capsys)


@pytest.mark.parametrize("name", ["images", ".partial", "logs", "superseded"])
def test_a_run_in_a_folder_that_leads_elsewhere_sends_nothing(desk: Desk, outside: Path, name: str) -> None:
    """Told with the link's place, and what to do."""
    job = desk.manifest("job", ["A lighthouse"])
    (desk.folder / "output/job").mkdir(parents=True)
    (desk.folder / "output/job" / name).symlink_to(outside)
    said = desk.run(job)
    assert said.code == 1
    assert f"output/job/{name}" in said.err
    assert "hint:" in said.err
    assert desk.requests() == 0
    assert unharmed(outside)


def test_a_name_that_is_a_link_is_given_to_the_image_and_the_link_kept(desk: Desk, outside: Path) -> None:
    """The stranger's file stays as it is."""
    job = desk.manifest("job", [{"id": "a", "text": "A lighthouse"}], output={"name": "{{ prompt_id }}"})
    (desk.folder / "output/job/images").mkdir(parents=True)
    (desk.folder / "output/job/images/a.png").symlink_to(outside / "a.png")
    assert desk.run(job).code == 0
    assert not (desk.folder / "output/job/images/a.png").is_symlink()
    assert (desk.folder / "output/job/superseded/a~unknown.png").is_symlink()
    assert unharmed(outside)


def test_a_folder_at_an_images_name_ends_the_run_and_its_image_is_taken_over(desk: Desk) -> None:
    """Paid once: when the folder is gone, what came in gets its name."""
    job = desk.manifest("job", [{"id": "a", "text": "A lighthouse"}], output={"name": "{{ prompt_id }}"})
    there = desk.folder / "output/job/images/a.png"
    there.mkdir(parents=True)
    said = desk.run(job)
    assert said.code == 1
    assert "is a folder" in said.out + said.err
    there.rmdir()
    assert desk.run(job).code == 0
    assert there.is_file()
    assert desk.requests() == 1
    with Ledger.open(desk.folder / "output/ledger.sqlite3", create=False) as ledger:
        assert ledger.check() == []
