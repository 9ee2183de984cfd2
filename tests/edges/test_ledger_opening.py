"""What opening a ledger must hold: the schema is the one in the code, and nothing that is not ours is ever touched."""

from __future__ import annotations

import importlib.resources
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine.interfaces import ReflectedColumn

from runner.errors import InputError, LedgerError
from runner.ledger import Ledger, locate, schema
from runner.ledger.soundness import HEAD
from runner.ledger.tables import metadata
from tests.edges.ledger_support import (
    NOW_MS,
    begin_run,
    contents,
    engines,
    enrolled,
    make_tasks,
    open_ledger,
    path_of,
    rows,
    write,
)


def sql(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        for statement in statements:
            database.execute(statement)


def refused(path: Path) -> LedgerError:
    """The error of opening `path`, having seen that no byte of it changed and nothing was left beside it."""
    before, beside = path.read_bytes(), sorted(path.parent.iterdir())
    with pytest.raises(LedgerError) as caught:
        Ledger.open(path, create=True)
    assert path.read_bytes() == before
    assert sorted(path.parent.iterdir()) == beside
    assert caught.value.hint
    assert str(path) in caught.value.message
    return caught.value


def test_opening_creates_the_file_its_folder_and_the_newest_schema(tmp_path: Path) -> None:
    """A first run needs nothing to be prepared."""
    path = tmp_path / "new" / "folder" / "ledger.sqlite3"
    with Ledger.open(path, create=True) as ledger:
        assert path_of(ledger) == path
        assert ledger.jobs() == []
        assert ledger.check() == []
    assert path.read_bytes()[:15] == b"SQLite format 3"


def test_what_was_written_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    """Opening a ledger of the newest version changes no row."""
    with open_ledger(tmp_path) as ledger:
        job = enrolled(ledger, 3)
        begin_run(ledger, job)
        before = contents(ledger)
    with open_ledger(tmp_path) as ledger:
        assert contents(ledger) == before
        assert ledger.job("job") == job


def test_no_ledger_and_none_to_be_made_says_how_to_start(tmp_path: Path) -> None:
    """A read-only command makes no file."""
    with pytest.raises(InputError, match="no ledger") as caught:
        Ledger.open(tmp_path / "ledger.sqlite3", create=False)
    assert caught.value.hint is not None
    assert "runner run" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_an_empty_file_is_an_empty_database(tmp_path: Path) -> None:
    """A file of 0 bytes (touch, mktemp, a first run that was killed at once) becomes a ledger, but only for a run."""
    path = tmp_path / "ledger.sqlite3"
    path.touch()
    with pytest.raises(InputError, match="empty") as caught:
        Ledger.open(path, create=False)
    assert "runner run" in (caught.value.hint or "")
    assert [(each, each.stat().st_size) for each in tmp_path.iterdir()] == [(path, 0)]
    with Ledger.open(path, create=True) as ledger:
        assert ledger.jobs() == []


@pytest.fixture
def migrated() -> Iterator[sa.Connection]:
    """A database that every migration was applied to, one after the other."""
    engine = sa.create_engine("sqlite://")
    with engine.begin() as connection:
        schema._upgrade(connection)
        yield connection
    engine.dispose()


def test_the_migrated_schema_is_that_of_the_tables(migrated: sa.Connection) -> None:
    """Migrations and tables say the same: columns, types, nullability, indices, keys."""
    context = MigrationContext.configure(migrated, opts={"compare_type": True})
    assert compare_metadata(context, metadata) == []


def test_a_new_ledger_has_the_very_schema_that_the_migrations_lead_to(tmp_path: Path, migrated: sa.Connection) -> None:
    """A new ledger is made without them: columns and their defaults, checks, keys and partial indices are theirs."""
    with open_ledger(tmp_path) as ledger, engines(ledger)[1].connect() as connection:
        ours, theirs = sa.inspect(connection), sa.inspect(migrated)
        assert sorted(ours.get_table_names()) == sorted(theirs.get_table_names())
        seen = 0
        for table in ours.get_table_names():
            columns = {each["name"]: _told(each) for each in ours.get_columns(table)}
            assert columns == {each["name"]: _told(each) for each in theirs.get_columns(table)}
            found = {check["name"]: check["sqltext"] for check in ours.get_check_constraints(table)}
            assert found == {check["name"]: check["sqltext"] for check in theirs.get_check_constraints(table)}
            seen += len(found)
            key = {tuple(each["column_names"]) for each in ours.get_unique_constraints(table)}
            assert key == {tuple(each["column_names"]) for each in theirs.get_unique_constraints(table)}
            links = [(each["constrained_columns"], each["referred_table"]) for each in ours.get_foreign_keys(table)]
            their_links = [
                (each["constrained_columns"], each["referred_table"]) for each in theirs.get_foreign_keys(table)
            ]
            assert sorted(links) == sorted(their_links)
        assert seen == 19
        query = sa.text("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL")
        indices = {name: " ".join(text.split()) for name, text in connection.execute(query)}
        assert indices == {name: " ".join(text.split()) for name, text in migrated.execute(query)}
        assert "WHERE outcome IS NULL" in indices["ix_attempts_open"]


def _told(column: ReflectedColumn) -> tuple[object, ...]:
    return str(column["type"]), column["nullable"], column["default"], column.get("primary_key")


def test_the_newest_migration_is_the_version_that_the_code_reads(tmp_path: Path) -> None:
    """A migration that is added without its number in the code would never be applied."""
    config = Config()
    config.set_main_option("script_location", str(importlib.resources.files("runner.ledger") / "migrations"))
    scripts = ScriptDirectory.from_config(config)
    assert scripts.get_heads() == [HEAD]
    assert all(len(script.revision) == len(HEAD) for script in scripts.walk_revisions())
    with open_ledger(tmp_path) as ledger:
        assert rows(ledger, "SELECT * FROM alembic_version") == [{"version_num": HEAD}]


def test_a_ledger_of_a_newer_version_is_refused_unchanged(tmp_path: Path) -> None:
    """An older runner never writes what it does not understand."""
    with open_ledger(tmp_path) as ledger:
        enrolled(ledger, 3)
        path = path_of(ledger)
    sql(path, "UPDATE alembic_version SET version_num = '9999'")
    error = refused(path)
    assert "newer version" in error.message
    assert "9999" in error.message
    assert "upgrade" in (error.hint or "")


def test_a_database_of_another_program_is_refused_unchanged(tmp_path: Path) -> None:
    """Not even its journal mode is changed."""
    path = tmp_path / "bookmarks.sqlite3"
    sql(path, "CREATE TABLE bookmarks (url TEXT)", "INSERT INTO bookmarks VALUES ('x')")
    assert "something else" in refused(path).message


@pytest.mark.parametrize("version", ["INSERT INTO alembic_version VALUES ('0000d1e2f3a4')", "SELECT 1"])
def test_another_program_that_uses_alembic_is_refused_unchanged(tmp_path: Path, version: str) -> None:
    """A table of versions does not make a ledger, whatever it says and even if it says nothing."""
    path = tmp_path / "app.sqlite3"
    sql(path, "CREATE TABLE alembic_version (version_num TEXT)", "CREATE TABLE jobs (url TEXT)", version)
    assert "something else" in refused(path).message


@pytest.mark.parametrize("text", [b"hello\n", b"name: not a ledger\n" * 400])
def test_a_file_that_is_no_database_is_refused_unchanged(tmp_path: Path, text: bytes) -> None:
    """`--ledger jobs/nightly.yaml` must not cost anybody a manifest."""
    path = tmp_path / "jobs.yaml"
    path.write_bytes(text)
    assert "--ledger" in (refused(path).hint or "")


@pytest.mark.parametrize("keep", [0.02, 0.3, 0.6])
def test_a_truncated_ledger_is_refused_unchanged(tmp_path: Path, keep: float) -> None:
    """Half a copy of a ledger is no ledger, and is kept for whoever can repair it."""
    with open_ledger(tmp_path) as ledger:
        enrolled(ledger, 200)
        path = path_of(ledger)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    refused(path)


def test_a_ledger_with_a_destroyed_schema_is_refused_unchanged(tmp_path: Path) -> None:
    """Damage is said to be damage."""
    with open_ledger(tmp_path) as ledger:
        enrolled(ledger, 200)
        path = path_of(ledger)
    whole = bytearray(path.read_bytes())
    whole[100:4096] = b"\xa5" * (4096 - 100)
    path.write_bytes(whole)
    error = refused(path)
    assert "damaged" in error.message
    assert "copy" in (error.hint or "")


def test_damage_behind_the_schema_is_found_by_the_check_and_told_as_damage(tmp_path: Path) -> None:
    """The doctor's check finds it; a read that meets it raises LedgerError, never SQLAlchemy's own."""
    with open_ledger(tmp_path) as ledger:
        enrolled(ledger, 2000)
        path = path_of(ledger)
        (root,) = (row["rootpage"] for row in rows(ledger, "SELECT rootpage FROM sqlite_master WHERE name = 'tasks'"))
    whole = bytearray(path.read_bytes())
    whole[(root - 1) * 4096 : root * 4096] = b"\xa5" * 4096
    path.write_bytes(whole)
    with Ledger.open(path, create=False) as ledger:
        found = ledger.job("job")
        assert found is not None
        with pytest.raises(LedgerError, match="damaged"):
            ledger.todo(found, -1, 10)


def test_a_folder_in_the_ledgers_place_is_an_error_with_a_hint(tmp_path: Path) -> None:
    """So is a file in the place of its folder."""
    (tmp_path / "ledger.sqlite3").mkdir()
    with pytest.raises(LedgerError, match="cannot be opened") as caught:
        Ledger.open(tmp_path / "ledger.sqlite3", create=True)
    assert caught.value.hint
    (tmp_path / "file").write_text("x")
    with pytest.raises(LedgerError, match="folder") as caught:
        Ledger.open(tmp_path / "file" / "ledger.sqlite3", create=True)
    assert caught.value.hint
    assert (tmp_path / "file").read_text() == "x"


def test_the_pragmas_are_in_force_on_every_connection(tmp_path: Path) -> None:
    """Law 1: committed means flushed to disk (WAL, synchronous FULL); references are checked; others are waited for."""
    with open_ledger(tmp_path) as ledger:
        for engine in (engines(ledger)[0], engines(ledger)[1]) * 2:
            with engine.connect() as connection:
                found = {
                    name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
                    for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
                }
            # The next one is a new connection.
            engine.dispose()
            assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 60_000}


def test_a_write_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    """One transaction for each `write()`: an exception takes back all of it."""
    with open_ledger(tmp_path) as ledger:
        before = contents(ledger)
        with pytest.raises(RuntimeError), write(ledger) as connection:
            connection.execute(sa.text("INSERT INTO prompts (digest, text) VALUES ('d', 't')"))
            raise RuntimeError
        assert contents(ledger) == before


def test_a_reader_sees_one_snapshot_while_another_writes(tmp_path: Path) -> None:
    """A long export is of one instant, and keeps no run waiting."""
    with open_ledger(tmp_path) as ledger:
        job = enrolled(ledger, 5)
        with ledger.export(job) as lines:
            first = next(lines)
            enrolled(ledger, make_tasks(2), digest="d2")
            assert len([first, *lines]) == 5
        renewed = ledger.job("job")
        assert renewed is not None
        with ledger.export(renewed) as lines:
            assert len(list(lines)) == 2


def test_where_the_ledger_is_found(tmp_path: Path) -> None:
    """A path, a SQLite URL, or the output folder's own; any other database is refused by name."""
    assert locate(None, tmp_path) == tmp_path / "ledger.sqlite3"
    assert locate("x/y.db", tmp_path) == Path("x/y.db")
    assert locate("sqlite:////var/x.db", tmp_path) == Path("/var/x.db")
    with pytest.raises(InputError, match="mysql://") as caught:
        locate("mysql://user:secret@db/x", tmp_path)
    assert "secret" not in str(caught.value)


def test_a_jobs_manifest_path_is_brought_up_to_date(tmp_path: Path) -> None:
    """A manifest that was moved is found under its new path; its job stays the same."""
    with open_ledger(tmp_path) as ledger:
        job = ledger.make_job("job", manifest_path="old.yaml", now_ms=NOW_MS)
        moved = ledger.make_job("job", manifest_path="new.yaml", now_ms=NOW_MS)
        assert (moved.id, moved.manifest_path) == (job.id, "new.yaml")
        assert ledger.make_job("job", manifest_path=None, now_ms=NOW_MS).manifest_path == "new.yaml"
        assert ledger.job("other") is None
