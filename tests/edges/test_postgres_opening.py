"""What opening a ledger on a server must hold: it is a ledger or empty, or it is said what is wrong and what to do."""

from __future__ import annotations

import datetime as dt
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from runner.errors import InputError, LedgerError, RunnerError
from runner.ledger import Ledger, Server, locate, schema
from runner.ledger.soundness import HEAD
from runner.ledger.wire import escaped, unescaped
from tests.edges.ledger_support import (
    begin,
    begin_run,
    connected,
    enrolled,
    finish,
    make_task,
    read,
    rows,
    write,
)
from tests.servers import postgres
from tests.servers.ports import free_port
from tests.servers.postgres import PASSWORD

_NOW = dt.datetime(2026, 11, 23, tzinfo=dt.UTC)


@pytest.fixture
def place(pg_server: postgres.Server) -> Server:
    """An empty database."""
    return Server(pg_server.database())


def refused(place: Server, *, create: bool = True) -> RunnerError:
    """What is said of a server that cannot be opened; never its password."""
    with pytest.raises((InputError, LedgerError)) as caught:
        Ledger.open(place, create=create)
    assert PASSWORD not in str(caught.value)
    assert caught.value.hint
    return caught.value


def test_an_empty_database_becomes_a_ledger_only_for_a_run(place: Server) -> None:
    """Who looks makes nothing."""
    assert not Ledger.exists(place)
    assert "is empty" in refused(place, create=False).message
    assert not Ledger.exists(place)
    with Ledger.open(place, create=True) as ledger:
        assert ledger.place == place
        assert ledger.is_shared
        assert enrolled(ledger, 3).wanted == 3
        assert ledger.check(deep=True) == []
    assert Ledger.exists(place)
    with Ledger.open(place, create=False) as ledger:
        assert [job.name for job in ledger.jobs()] == ["job"]


def test_a_new_ledger_has_the_very_schema_that_the_migrations_lead_to(pg_server: postgres.Server) -> None:
    """Both ways to a schema lead to one: columns with their types, keys, rules and indices."""
    made, migrated = Server(pg_server.database()), Server(pg_server.database())
    Ledger.open(made, create=True).close()
    engine = sa.create_engine(migrated.url)
    with engine.begin() as connection:
        schema._upgrade(connection)
    engine.dispose()
    queries = (
        "SELECT table_name, column_name, data_type, is_nullable FROM information_schema.columns"
        " WHERE table_schema = 'public' ORDER BY 1, 2",
        "SELECT conrelid::regclass::text, contype::text, pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2, 3",
        "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1",
        "SELECT version_num FROM alembic_version",
    )
    for query in queries:
        with connected(made) as one, connected(migrated) as other:
            first, second = one.execute(query.encode()).fetchall(), other.execute(query.encode()).fetchall()
        assert first
        assert first == second
    with Ledger.open(migrated, create=True) as ledger:
        assert enrolled(ledger, 3).wanted == 3


def test_numbers_of_rows_do_not_end_at_two_thousand_million(place: Server) -> None:
    """A ledger of many jobs over years has more attempts than an INTEGER counts."""
    Ledger.open(place, create=True).close()
    query = (
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'"
        " AND data_type = 'integer' AND column_name ~ '^id$|_(id|row|task|run|from)$'"
    )
    with connected(place) as server:
        assert [row for row in server.execute(query.encode()).fetchall() if row[0] != "caps"] == []


def test_a_newer_ledger_is_left_alone(place: Server) -> None:
    """An older runner must not write into what it does not understand."""
    Ledger.open(place, create=True).close()
    with connected(place) as server:
        server.execute("UPDATE alembic_version SET version_num = '9999'")
    assert "newer version" in refused(place).message


def test_the_database_of_something_else_is_left_alone(place: Server) -> None:
    """Its tables stay the only ones."""
    with connected(place) as server:
        server.execute("CREATE TABLE bookmarks (id int)")
    assert "something else" in refused(place).message
    with connected(place) as server:
        found = server.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    assert found == [("bookmarks",)]


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        ("DROP TABLE choices", "its table choices is missing"),
        ("ALTER TABLE jobs DROP COLUMN offered_run", "jobs lacks offered_run"),
        ("DELETE FROM alembic_version", "which version"),
    ],
)
def test_a_ledger_that_lacks_something_is_damaged(place: Server, damage: str, what: str) -> None:
    """Found when it is opened, not in the middle of a run."""
    Ledger.open(place, create=True).close()
    with connected(place) as server:
        server.execute(damage.encode())
    assert what in refused(place).message


def test_each_reason_why_a_server_cannot_be_used_is_told_with_what_to_do(pg_server: postgres.Server) -> None:
    """And none tells the password."""
    good = pg_server.database()
    name = good.rpartition("/")[2]
    pg_server.run("CREATE ROLE reader LOGIN PASSWORD 'not-a-secret'")
    try:
        wrong = refused(Server(good.replace(PASSWORD, "wrong-word")))
        assert "wrong-word" not in str(wrong)
        assert "password" in wrong.message
        assert "PGPASSWORD" in str(wrong.hint)
        assert "does not exist" in refused(Server(good + "_not")).message
        gone = refused(Server(good.replace(f":{pg_server.port}/", f":{free_port()}/")))
        assert "cannot be reached" in gone.message
        assert "cannot be reached" in refused(Server(good.replace("127.0.0.1", "no-such-host.invalid"))).message
        assert "search_path" in refused(Server(good + "?options=-csearch_path%3Dnowhere")).message
        denied = refused(Server(good.replace("runner:", "reader:")))
        assert "may not be used" in denied.message
        assert "GRANT" in str(denied.hint)
        assert "no_such_word" in refused(Server(good + "?no_such_word=1")).message
    finally:
        pg_server.run("DROP ROLE reader")
    assert name in str(Server(good))


def test_ledgers_of_several_teams_lie_in_schemas_of_one_database(pg_server: postgres.Server) -> None:
    """Each knows its own jobs, and one's lock is not the other's."""
    url = pg_server.database()
    with connected(Server(url)) as server:
        server.execute("CREATE SCHEMA team")
    mine, theirs = Server(url), Server(url + "?options=-csearch_path%3Dteam")
    assert "search_path" in str(theirs)
    with Ledger.open(mine, create=True) as one, Ledger.open(theirs, create=True) as other:
        enrolled(one, 2)
        assert other.jobs() == []
        with one.lock("job", now=_NOW), other.lock("job", now=_NOW):
            assert one.is_held("job")


def test_without_psycopg_it_is_said_what_to_install(place: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """An optional package that is missing is an error, never a silent fallback."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    error = refused(place)
    assert "psycopg is not installed" in error.message
    assert "runner[postgres]" in str(error.hint)


def test_a_file_needs_no_server(tmp_path: Path) -> None:
    """The default imports nothing of PostgreSQL's: it would make every start slower."""
    code = (
        "import sys; from pathlib import Path; from runner.ledger import Ledger\n"
        f"Ledger.open(Path({str(tmp_path / 'ledger.sqlite3')!r}), create=True).close()\n"
        "print([name for name in sys.modules if name.startswith(('psycopg', 'runner.ledger.postgres'))])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://u:s3cr%40t@h:5432/db",
        "postgres://u@h/db?password=s3cr%40t",
        "postgresql://u:s3cr%40t@h/db?sslmode=require&sslpassword=s3cr%40t",
    ],
)
def test_a_servers_words_never_have_its_password(url: str) -> None:
    """`str`, `repr`, and what a driver may have put into a message."""
    place = locate(url, Path())
    assert isinstance(place, Server)
    for text in (str(place), repr(place), f"{place}", place.redacted("no: s3cr@t and s3cr%40t")):
        assert "s3cr" not in text
    assert "//u@h" in str(place)


@pytest.mark.parametrize(
    "url",
    ["postgresql://u:s3/cr@h/db", "postgresql://u:s3cr@h:99999/db", "postgresql://u:s3cr@h", "mysql://u:s3cr@h/d"],
)
def test_a_url_that_is_none_is_told_without_what_it_says(url: str) -> None:
    """A password with a slash of its own makes such a URL."""
    with pytest.raises(InputError) as caught:
        locate(url, Path())
    assert "s3" not in str(caught.value)


@pytest.mark.parametrize("text", ["\0", "a\0b", "\ud800", "\x1a", "\x1a0000", "plain", "日本語 🌋", "\udcff\0\x1a\x1a"])
def test_any_text_comes_back_as_it_was(place: Server, text: str) -> None:
    """A prompt may hold what PostgreSQL's texts cannot; it must not lose a run."""
    assert unescaped(escaped(text)) == text
    with Ledger.open(place, create=True) as ledger:
        job = enrolled(ledger, [make_task(text, prompt_id="p")])
        (todo,) = ledger.todo(job, -1, 10)
        assert todo.request.prompt == text


def test_what_a_server_that_only_reads_refuses_is_told(place: Server) -> None:
    """As a standby does."""
    with Ledger.open(place, create=True) as ledger:
        enrolled(ledger, 1)
        with pytest.raises(LedgerError, match="only reads"), write(ledger) as connection:
            connection.execute(sa.text("SET TRANSACTION READ ONLY"))
            connection.execute(sa.text("DELETE FROM tasks"))


def test_the_commit_of_a_ledger_waits_for_the_disk(place: Server) -> None:
    """Law 1: a server that forgets its last moments would forget requests that have left."""
    lax = Server(place.url + "?options=-csynchronous_commit%3Doff")
    with Ledger.open(lax, create=True) as ledger, write(ledger) as connection:
        assert connection.scalar(sa.text("SHOW synchronous_commit")) == "on"


def test_a_reader_cannot_write_and_sees_one_instant(place: Server) -> None:
    """A report's figures are of one moment, whatever is recorded meanwhile."""
    with Ledger.open(place, create=True) as ledger:
        job = enrolled(ledger, 2)
        run_id = begin_run(ledger, job)
        first, second = ledger.todo(job, -1, 2)
        count = sa.text("SELECT count(*) FROM attempts")
        with read(ledger) as connection:
            before = connection.scalar(count)
            begin(ledger, job, run_id, first.task_id)
            assert connection.scalar(count) == before
        finish(ledger, job, run_id, second)
        with pytest.raises(LedgerError), read(ledger) as connection:
            connection.execute(sa.text("DELETE FROM attempts"))
        assert len(rows(ledger, "SELECT id FROM attempts")) == 2


def test_what_the_catalog_knows_to_be_wrong_is_told(place: Server) -> None:
    """`runner doctor` on a server: a counter that is behind would refuse the next row."""
    with Ledger.open(place, create=True) as ledger:
        enrolled(ledger, 3)
        assert ledger.check(deep=True) == []
        with connected(place) as server:
            server.execute("SELECT setval(pg_get_serial_sequence('tasks', 'id'), 1)")
            server.execute("ALTER TABLE tasks DROP CONSTRAINT tasks_prompt_row_fkey")
            server.execute("UPDATE tasks SET prompt_row = 99 WHERE position = 0")
        assert ledger.check() == ["the counter of tasks is behind its rows"]
        assert ledger.check(deep=True) == ["the counter of tasks is behind its rows", "broken reference in tasks"]


def test_the_head_is_the_newest_migration() -> None:
    """A migration that is written and not told of would never run."""
    folder = Path(importlib.import_module("runner.ledger.migrations.versions").__path__[0])
    assert max(path.name for path in folder.glob("v*.py")).startswith(f"v{HEAD}")
