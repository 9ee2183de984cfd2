"""What a copy of a ledger must hold: every row of it, the same, or nothing."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from runner.cli.app import run_app
from runner.errors import InputError, LedgerError, Locked
from runner.ledger import Cap, Ledger, NewBatch, NewChoice, Place, Server, copying
from runner.ledger.copying import copy
from tests.edges.ledger_support import (
    ESTIMATE,
    NOW_MS,
    begin,
    begin_run,
    change,
    connected,
    contents,
    enrolled,
    finish,
    fresh,
    make_edit,
    make_task,
    rendition,
    rows,
)
from tests.servers import postgres
from tests.servers.postgres import PASSWORD

NOW = dt.datetime(2026, 11, 22, 3, 0, tzinfo=dt.UTC)


def fill(ledger: Ledger) -> None:
    """Something of everything: edits, batches, choices, renditions, origins, doubts, reuse, a cap."""
    tasks = [make_task(f"prompt {n}", line=n + 1) for n in range(6)]
    tasks += [make_task("retouched 日本語", edit=make_edit(), composite='{"feather":8}', line=9)]
    job = enrolled(ledger, tasks)
    run_id = begin_run(ledger, job)
    todos = ledger.todo(job, -1, 10)
    for todo in todos[:3]:
        finish(ledger, job, run_id, todo)
    finish(ledger, job, run_id, todos[6], cost=ESTIMATE)
    begin(ledger, job, run_id, todos[3].task_id)
    ledger.caps.set(Cap("month", 50_000_000), now_ms=NOW_MS)
    new = NewBatch(job.id, run_id, "openai", None, False, "token", "/v1/images/generations", "gpt-image-1-mini", "2026")
    number = ledger.batches.prepare(new, now_ms=NOW_MS)
    ledger.batches.add(number, new, [(todos[4].task_id, 5_000)], now_ms=NOW_MS)
    ledger.batches.remember("https://api", "a" * 64, "file-1", expires_ms=None, now_ms=NOW_MS)
    wanted = ledger.renditions.lacking(job, {"thumbnail": "r1"}, 0, 10)
    ledger.renditions.made([rendition(item, "thumbnail", "r1", f"{item.name}.t") for item in wanted], now_ms=NOW_MS)
    left, right = todos[0].task_id, todos[1].task_id
    ledger.reviews.add(job, NewChoice("ann", left, right, "left", None, True, "t1"), now_ms=NOW_MS)
    ledger.reviews.add(job, NewChoice("bob", left, None, "stars", 5, False, "t2"), now_ms=NOW_MS)
    ledger.reviews.undo(job, "bob", now_ms=NOW_MS + 1)
    second = enrolled(ledger, tasks[:3], name="second")
    begin_run(ledger, second)
    for page in ledger.reusable(second):
        for item in page:
            ledger.reuse(item, replace(item.file, path=f"second/{item.asset_id}.png"), now_ms=NOW_MS)
    keys = [todo.key for todo in todos[:1]]
    ledger.link_origins(second, {"prompt-0": keys}, of_job="job", now_ms=NOW_MS)
    # One stands for another that came later.
    change(ledger, "UPDATE assets SET reused_from = 5 WHERE id = 1")
    ledger.end_run(run_id, exit_code=0, reason=None, now_ms=NOW_MS + 5)


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[Path]:
    """A file with something of everything."""
    path = tmp_path / "source.sqlite3"
    with Ledger.open(path, create=True) as ledger:
        fill(ledger)
    yield path


@pytest.fixture
def server_place(pg_server: postgres.Server) -> Iterator[Server]:
    url = fresh(pg_server)
    yield Server(url)
    pg_server.drop(url)


def everything(place: Place) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table."""
    with Ledger.open(place, create=False) as ledger:
        return contents(ledger)


def test_there_and_back_again(filled: Path, server_place: Server, pg_server: postgres.Server, tmp_path: Path) -> None:
    """From a file to a server, to another server, to a file: each has the same rows, and goes on by itself."""
    before = everything(filled)
    assert [name for name, found in before.items() if not found and name not in ("paces", "paced_runs")] == []
    done = copy(filled, server_place)
    assert done.rows["tasks"] == 10
    assert everything(server_place) == before
    third = Server(pg_server.database())
    copy(server_place, third)
    assert everything(third) == before
    back = tmp_path / "back.sqlite3"
    copy(third, back)
    assert everything(back) == before
    for place in (server_place, third, back):
        with Ledger.open(place, create=True) as ledger:
            assert ledger.check(deep=True) == []
            job = enrolled(ledger, 2, name="new")
            run_id = begin_run(ledger, job)
            for todo in ledger.todo(job, -1, 2):
                finish(ledger, job, run_id, todo)
    pg_server.drop(third.url)


def test_a_file_is_copied_to_a_file(filled: Path, tmp_path: Path) -> None:
    """Where no server is wanted; the folder of the copy is made."""
    copy(filled, tmp_path / "new" / "ledger.sqlite3")
    assert everything(tmp_path / "new" / "ledger.sqlite3") == everything(filled)


def test_only_an_empty_place_is_copied_to(filled: Path, server_place: Server, tmp_path: Path) -> None:
    """What is on record there stays."""
    with Ledger.open(server_place, create=True) as ledger:
        enrolled(ledger, 1, name="theirs")
    before = everything(server_place)
    with pytest.raises(InputError, match="has jobs on record already"):
        copy(filled, server_place)
    assert everything(server_place) == before
    with pytest.raises(InputError, match="onto itself"):
        copy(filled, filled)
    with pytest.raises(InputError, match="no ledger"):
        copy(tmp_path / "nowhere.sqlite3", tmp_path / "other.sqlite3")
    assert not (tmp_path / "other.sqlite3").exists()


def test_a_ledger_that_a_run_uses_is_not_copied(filled: Path, tmp_path: Path) -> None:
    """Half of a run would be in the copy, and the other half would be paid for again."""
    with (
        Ledger.open(filled, create=True) as ledger,
        ledger.lock("job", now=NOW),
        pytest.raises(Locked, match="a run holds the job 'job'"),
    ):
        copy(filled, tmp_path / "copy.sqlite3")
    copy(filled, tmp_path / "copy.sqlite3")


def test_a_run_that_begins_meanwhile_undoes_the_copy(
    filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is seen before the copy counts."""
    whole = copying._digest
    seen: list[int] = []

    def meanwhile(*args: object) -> str:
        if not seen:
            with Ledger.open(filled, create=True) as ledger:
                job = ledger.job("job")
                assert job is not None
                seen.append(begin_run(ledger, job))
        return whole(*args)  # type: ignore[arg-type]  # as they came

    monkeypatch.setattr(copying, "_digest", meanwhile)
    with pytest.raises(LedgerError, match="meanwhile"):
        copy(filled, tmp_path / "copy.sqlite3")
    with Ledger.open(tmp_path / "copy.sqlite3", create=True) as ledger:
        assert ledger.jobs() == []


def test_a_copy_that_is_not_the_same_counts_for_nothing(
    filled: Path, server_place: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read again before it is committed."""
    honest = copying._count_on

    def lie(connection: object, table: object) -> None:
        honest(connection, table)  # type: ignore[arg-type]  # as they came
        if getattr(table, "name", "") == "jobs":
            assert isinstance(connection, sa.Connection)
            connection.exec_driver_sql(
                "CREATE FUNCTION worse() RETURNS trigger LANGUAGE plpgsql"
                " AS 'BEGIN NEW.position := 7; RETURN NEW; END';"
                " CREATE TRIGGER worse BEFORE INSERT ON tasks FOR EACH ROW EXECUTE FUNCTION worse()"
            )

    monkeypatch.setattr(copying, "_count_on", lie)
    with pytest.raises(LedgerError, match="the copy of tasks"):
        copy(filled, server_place)
    assert all(not found for name, found in everything(server_place).items() if name != "alembic_version")


def test_an_older_ledger_is_up_to_date_in_the_copy_and_left_as_it_is(
    filled: Path, server_place: Server, tmp_path: Path
) -> None:
    """What came with later versions has its default there."""
    old = tmp_path / "old.sqlite3"
    shutil.copy(filled, old)
    with closing(sqlite3.connect(old)) as database:
        for table in ("paced_runs", "paces", "cap_periods", "caps"):
            database.execute(f"DROP TABLE {table}")
        database.execute("ALTER TABLE jobs DROP COLUMN output")
        database.execute("UPDATE alembic_version SET version_num = '0005'")
        database.commit()
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = old.read_bytes()
    copy(old, server_place)
    assert old.read_bytes() == before
    with Ledger.open(server_place, create=True) as ledger:
        assert len(rows(ledger, "SELECT id FROM tasks")) == 10
        assert [job.output for job in ledger.jobs()] == [None, None]
        assert ledger.check(deep=True) == []


def test_text_that_a_server_cannot_hold_comes_back(server_place: Server, tmp_path: Path) -> None:
    """A prompt with a NUL, there and back."""
    first, last = tmp_path / "a.sqlite3", tmp_path / "b.sqlite3"
    with Ledger.open(first, create=True) as ledger:
        enrolled(ledger, [make_task("a\0b\x1ac", prompt_id="p")])
    copy(first, server_place)
    copy(server_place, last)
    assert everything(last) == everything(first)


def test_the_command_tells_what_it_has_copied(
    filled: Path, server_place: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    """In words and as JSON; never with a password."""
    assert run_app(["ledger", "copy", str(filled), server_place.url, "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    told = json.loads(line)
    assert told["type"] == "copied"
    assert told["rows"]["tasks"] == 10
    assert told["destination"] == str(server_place)
    assert run_app(["ledger", "copy", str(filled), server_place.url]) == 2
    shown = capsys.readouterr()
    assert "has jobs on record already" in shown.err
    assert PASSWORD not in line + shown.out + shown.err
    with connected(server_place) as server:
        server.execute("TRUNCATE jobs CASCADE")
    assert run_app(["ledger", "copy", str(filled), server_place.url]) == 0
    assert "every row was read again and is the same" in capsys.readouterr().out
