"""What every command must do with a ledger that is none, or no longer one: a clear error, and not a byte changed."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from runner.cli.app import run_app
from runner.errors import LedgerError
from runner.ledger import Ledger, soundness
from tests.edges.ledger_support import (
    enrolled,
    open_ledger,
    path_of,
)
from tests.edges.simulator_support import Peer, running
from tests.engine.command_support import KEY, KEY_VARIABLE

PAGE = 4096
PROMPTS = 40
READING = (("status",), ("status", "job"), ("costs",), ("export", "job"), ("plan", "job.yaml"))


@pytest.fixture(scope="module")
def server() -> Iterator[Peer]:
    with running(art="flat") as peer:
        yield peer


@pytest.fixture(scope="module")
def sound(server: Peer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a job of which half is made; to be copied."""
    folder = tmp_path_factory.mktemp("sound")
    manifest = {
        "name": "job",
        "model": "gpt-image-2",
        "prompts": [{"id": f"p{number}", "text": f"prompt {number} " * 30} for number in range(PROMPTS)],
        "settings": {"size": "1024x1024", "quality": "low"},
        "limits": {"images_per_minute": 1_000_000, "concurrency": 4},
    }
    (folder / "job.yaml").write_text(json.dumps(manifest))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv(KEY_VARIABLE, KEY)
        assert run_app(["run", "job.yaml", *_to(server), "--limit", str(PROMPTS // 2)]) == 0
    return folder


def _to(server: Peer) -> tuple[str, ...]:
    return ("--base-url", server.base_url, "--api-key-env", KEY_VARIABLE)


@dataclass
class Desk:
    """A folder whose ledger can be broken, and commands called in it."""

    folder: Path
    server: Peer
    capsys: pytest.CaptureFixture[str]

    @property
    def ledger(self) -> Path:
        return self.folder / "output" / "ledger.sqlite3"

    def call(self, *arguments: str) -> tuple[int, str]:
        """A command's exit code, and what it said on stderr."""
        self.capsys.readouterr()
        to = _to(self.server) if arguments[0] in ("run", "plan") else ()
        code = run_app([*arguments, *to])
        return code, self.capsys.readouterr().err

    def requests(self) -> int:
        return int(self.server.bill()["requests"])

    def beside(self) -> dict[str, object]:
        """The ledger's files and their bytes; of what is no file, its kind. The index of a log is no content."""
        found: dict[str, object] = {}
        for path in self.ledger.parent.glob("ledger.sqlite3*"):
            mode = path.lstat().st_mode
            if not path.name.endswith("-shm"):
                found[path.name] = path.read_bytes() if stat.S_ISREG(mode) else stat.S_IFMT(mode)
        return found

    def refuse(self, *signs: str) -> None:
        """Every command refuses this ledger with these words, and changes nothing."""
        before = self.beside()
        for arguments in (*READING, ("retry", "job", "--failed"), ("run", "job.yaml")):
            code, said = self.call(*arguments)
            assert code == 1, (arguments, said)
            assert str(self.ledger.relative_to(self.folder)) in said, (arguments, said)
            assert "hint:" in said, (arguments, said)
            assert "unexpected" not in said, (arguments, said)
            for sign in signs:
                assert sign in said, (arguments, said)
            assert self.beside() == before, arguments
        assert self.requests() == 0


@pytest.fixture
def desk(
    sound: Path, server: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Desk:
    shutil.copytree(sound, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    server.call("POST", "/simulator/reset")
    return Desk(tmp_path, server, capsys)


def sql(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        for statement in statements:
            database.execute(statement)


def logged(desk: Desk, *statements: str) -> None:
    """Leave these changes in the ledger's log alone, as a run that was killed does."""
    with closing(sqlite3.connect(desk.ledger, isolation_level=None)) as database:
        for statement in statements:
            database.execute(statement)
        copies = {path: path.read_bytes() for path in desk.ledger.parent.glob("ledger.sqlite3*")}
    for path, data in copies.items():
        if not path.name.endswith("-shm"):
            path.write_bytes(data)


GROW = (
    "CREATE TABLE IF NOT EXISTS filling (text TEXT)",
    "INSERT INTO filling SELECT hex(randomblob(1000)) FROM tasks, (SELECT 1 UNION SELECT 2)",
)


def test_a_sound_ledger_is_read_by_every_command_and_left_as_it_is(desk: Desk) -> None:
    """The measure of all that follows: the same commands, and nothing broken."""
    before = desk.beside()
    for arguments in READING:
        assert desk.call(*arguments)[0] == 0
    assert desk.beside() == before
    assert desk.call("run", "job.yaml")[0] == 0
    assert desk.requests() == PROMPTS // 2


# --- what is not a ledger at all


@pytest.mark.parametrize("size", [1, 15, 16, 99, 100, 511])
def test_a_file_too_short_to_be_a_ledger_is_none(desk: Desk, size: int) -> None:
    """SQLite takes a file of 1 byte for an empty database: to fill it would pay for everything again."""
    desk.ledger.write_bytes(desk.ledger.read_bytes()[:size])
    desk.refuse("is not a ledger")


@pytest.mark.parametrize(
    "text", [b"name: not a ledger\n" * 400, bytes(PAGE), bytes(PAGE * 20), b"SQLite format 3\0" * 300]
)
def test_a_file_of_something_else_is_none(desk: Desk, text: bytes) -> None:
    """A text, a file full of zeros (what some file systems leave after a power cut), a header and nothing behind it."""
    desk.ledger.write_bytes(text)
    desk.refuse()


def test_an_empty_file_with_a_folder_of_logs_is_a_ledger_that_was_lost(desk: Desk) -> None:
    """0 bytes may be the trace of a first run that was killed, but here runs were logged: nothing is paid again."""
    desk.ledger.write_bytes(b"")
    for arguments in (*READING, ("retry", "job", "--failed")):
        code, said = desk.call(*arguments)
        assert (code, "ledger.sqlite3 is empty" in said) == (2, True), (arguments, said)
        assert desk.beside() == {"ledger.sqlite3": b""}
    code, said = desk.call("run", "job.yaml")
    assert code == 2
    assert "second time" in said
    assert desk.requests() == 0


def test_a_database_of_another_program_with_changes_of_its_own_under_way(desk: Desk) -> None:
    """Not even its log is brought into its file."""
    desk.ledger.unlink()
    sql(desk.ledger, "PRAGMA journal_mode = WAL", "CREATE TABLE bookmarks (url TEXT)")
    logged(desk, "INSERT INTO bookmarks VALUES ('x')")
    desk.refuse("database of something else")


@pytest.mark.parametrize("kind", ["a folder", "a named pipe", "a symbolic link to nothing", "a device"])
@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-journal"])
def test_what_is_no_file_is_refused_and_not_waited_for(desk: Desk, kind: str, suffix: str) -> None:
    """A pipe that nobody writes to would be waited for for ever; a dangling link may be a disk that is not mounted."""
    path = desk.ledger.with_name(desk.ledger.name + suffix)
    path.unlink(missing_ok=True)
    if kind == "a folder":
        path.mkdir()
    elif kind == "a named pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/null" if kind == "a device" else desk.folder / "not mounted" / "ledger")
    desk.refuse(kind if not suffix or kind.endswith(("folder", "pipe")) else "a symbolic link")


def test_a_link_to_a_ledger_is_a_ledger(desk: Desk) -> None:
    """It may lie on another disk."""
    elsewhere = desk.folder / "elsewhere.sqlite3"
    desk.ledger.rename(elsewhere)
    desk.ledger.symlink_to(elsewhere)
    assert desk.call("run", "job.yaml")[0] == 0
    assert desk.requests() == PROMPTS // 2


# --- what was one


@pytest.mark.parametrize("keep", [600, PAGE, PAGE + 1, 5 * PAGE, 0.3, 0.5, 0.9, -PAGE, -1])
def test_a_ledger_that_was_cut_is_found_at_opening(desk: Desk, keep: float) -> None:
    """At any length, to the last byte."""
    whole = desk.ledger.read_bytes()
    desk.ledger.write_bytes(whole[: int(len(whole) * keep) if 0 < keep < 1 else int(keep)])
    desk.refuse("damaged")


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("keep_pages", [0, 1, 10, 20])
def test_a_ledger_that_was_cut_beside_its_log_is_found_at_opening(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, keep_pages: int, small: bool
) -> None:
    """The log has other pages than those that are gone, and SQLite takes these for empty; also in a large ledger."""
    if not small:
        monkeypatch.setattr(soundness, "QUICK_CHECK_BYTES", 0)
    logged(desk, "UPDATE jobs SET created_ms = created_ms + 1", *GROW)
    desk.ledger.write_bytes(desk.ledger.read_bytes()[: keep_pages * PAGE])
    desk.refuse("-wal" if not keep_pages else "damaged")


def test_a_log_that_holds_the_end_of_the_ledger_is_no_damage(desk: Desk) -> None:
    """A run that was killed leaves its changes there: reading leaves them in place, and a run goes on with them."""
    logged(desk, *GROW, "UPDATE tasks SET status = 'failed' WHERE status = 'planned'")
    before = desk.beside()
    for arguments in READING:
        code, said = desk.call(*arguments)
        assert code == 0, said
        assert desk.beside() == before
    assert desk.call("retry", "job", "--failed")[0] == 0
    assert desk.call("run", "job.yaml")[0] == 0
    assert desk.requests() == PROMPTS // 2


@pytest.mark.parametrize("other", ["smaller", "larger", "older", "garbage"])
def test_the_log_of_another_ledger_is_never_brought_in(desk: Desk, tmp_path: Path, other: str) -> None:
    """A copy that was put back beside a log that had stayed: SQLite would mix the two."""
    wal = desk.ledger.with_name("ledger.sqlite3-wal")
    if other == "garbage":
        # This is no log at all, and SQLite passes it over.
        wal.write_bytes(random.Random(1).randbytes(50_000))
        assert desk.call("status")[0] == 0
        return
    if other == "older":
        old = desk.ledger.read_bytes()
        logged(desk, *GROW)
        sql(desk.ledger, "DELETE FROM filling")
        logged(desk, *GROW * 2)
        desk.ledger.write_bytes(old)
    else:
        with open_ledger(tmp_path / "strange") as stranger:
            enrolled(stranger, 2 if other == "smaller" else 2000)
            left = path_of(stranger).with_name("ledger.sqlite3-wal").read_bytes()
        wal.write_bytes(left)
    desk.refuse("damaged")


@pytest.mark.parametrize(
    ("statements", "sign"),
    [
        (["UPDATE alembic_version SET version_num = '9999'"], "newer version"),
        (["DELETE FROM alembic_version"], "which version"),
        (["UPDATE alembic_version SET version_num = '0000'"], "which version"),
        (["DROP TABLE assets"], "assets is missing"),
        (["DROP TABLE attempts"], "something else"),
        (["ALTER TABLE runs DROP COLUMN reason"], "runs lacks reason"),
        (["ALTER TABLE tasks RENAME COLUMN name TO title"], "tasks lacks name"),
    ],
)
def test_a_schema_that_is_not_ours_is_refused_unchanged(desk: Desk, statements: list[str], sign: str) -> None:
    """From a newer version, from none, or with something missing."""
    sql(desk.ledger, "PRAGMA journal_mode = DELETE", *statements)
    desk.refuse(sign)


PAGE_KINDS = (2, 5, 10, 13)
"""The first byte of a page of an index or a table, inside it or at its leaves. Source: SQLite, database file format."""


@pytest.mark.parametrize("seed", range(8))
def test_a_page_that_was_lost_never_costs_a_request_or_a_byte(desk: Desk, seed: int) -> None:
    """Reading gives an error or goes well, as it meets the damage or not; a run looks at all of it before it begins.

    It is a page of a table or of an index: one that a long text runs over into says nothing of itself.
    """
    draw = random.Random(seed)
    data = bytearray(desk.ledger.read_bytes())
    page = draw.choice([at for at in range(PAGE, len(data), PAGE) if data[at] in PAGE_KINDS])
    data[page : page + PAGE] = draw.choice([bytes(PAGE), draw.randbytes(PAGE)])
    desk.ledger.write_bytes(data)
    for arguments in READING:
        code, said = desk.call(*arguments)
        assert code in (0, 1), said
        assert code == 0 or ("ledger.sqlite3" in said and "hint:" in said), said
        assert desk.ledger.read_bytes() == data
    code, said = desk.call("run", "job.yaml")
    assert (code, "damaged" in said) == (1, True), said
    assert desk.ledger.read_bytes() == data
    assert desk.requests() == 0


@pytest.mark.parametrize("seed", range(12))
def test_flipped_bits_never_end_in_more_than_an_error(desk: Desk, seed: int) -> None:
    """Anywhere, the header among them: each command works or says what is wrong, and reading changes nothing."""
    draw = random.Random(seed)
    data = bytearray(desk.ledger.read_bytes())
    for _ in range(draw.choice([1, 5, 40])):
        data[draw.randrange(100 if seed % 3 == 0 else len(data))] ^= 1 << draw.randrange(8)
    desk.ledger.write_bytes(data)
    for arguments in READING:
        code, said = desk.call(*arguments)
        assert code in (0, 1), said
        assert code == 0 or ("ledger.sqlite3" in said and "hint:" in said), said
        assert desk.ledger.read_bytes() == data


# --- what happens to it while it is in use


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_ledger_that_is_taken_away_in_use_takes_no_more_records(tmp_path: Path, how: str) -> None:
    """Law 1: what is written to a file that nobody will find again is not on record."""
    with open_ledger(tmp_path) as ledger:
        enrolled(ledger, 3)
        path_of(ledger).unlink()
        if how == "replaced":
            shutil.copy(__file__, path_of(ledger))
        with pytest.raises(LedgerError, match="removed or replaced") as caught:
            ledger.make_job("other", manifest_path=None, now_ms=1)
        assert caught.value.hint
    assert how == "replaced" or not (tmp_path / "ledger.sqlite3").exists()


def test_looking_at_a_ledger_gives_up_nobodys_lock(tmp_path: Path) -> None:
    """POSIX locks belong to the process: to open and close the file beside SQLite would free what a run holds."""
    with open_ledger(tmp_path) as ledger:
        enrolled(ledger, 3)
        held = Path("/proc/locks").read_text()
        inode = f":{path_of(ledger).stat().st_ino} "
        mine = [line.split(":", 1)[1] for line in held.splitlines() if inode in line]
        assert mine
        with Ledger.open(path_of(ledger), create=False) as other:
            assert other.jobs()
        after = [line.split(":", 1)[1] for line in Path("/proc/locks").read_text().splitlines() if inode in line]
        assert after == mine
