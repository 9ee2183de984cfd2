"""What a ledger must hold when its server is lost: what is known to be undone is done again, and nothing twice."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial

import anyio
import pytest
import sqlalchemy as sa

from runner.errors import LedgerError
from runner.ledger import Ledger, Server, database
from tests.edges.ledger_support import ANSWER, COST, begin_run, connected, enrolled, fresh, make_file, rows, to_begin
from tests.edges.ledger_support import write as writing
from tests.servers import postgres
from tests.servers.postgres import PASSWORD
from tests.servers.tcp_proxy import Wire, proxy

COMMIT = b"COMMIT\0"
"""As it goes over the wire: not as a part of READ COMMITTED."""


@pytest.fixture
def wire(pg_server: postgres.Server) -> Iterator[Wire]:
    """What the ledger speaks through."""
    with proxy(pg_server.port) as opened:
        yield opened


@pytest.fixture
def place(pg_server: postgres.Server) -> Iterator[Server]:
    """A ledger with nothing in it."""
    url = fresh(pg_server)
    yield Server(url)
    pg_server.drop(url)


@pytest.fixture
def ledger(pg_server: postgres.Server, place: Server, wire: Wire) -> Iterator[Ledger]:
    """That ledger, through the wire."""
    behind = Server(place.url.replace(f":{pg_server.port}/", f":{wire.port}/"))
    with Ledger.open(behind, create=True) as opened:
        yield opened


def cut_now(place: Server) -> None:
    """The server ends every connection of the ledger's."""
    with connected(place, autocommit=True) as server:
        server.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


@pytest.mark.parametrize("after", [False, True], ids=["before the commit", "after the commit"])
def test_a_change_whose_commit_was_cut_is_made_once(ledger: Ledger, place: Server, wire: Wire, after: bool) -> None:
    """Law 1, both ways: the server is asked what became of it, and only what came to nothing is done again."""
    job = enrolled(ledger, 1)
    wire.cut_at(COMMIT, after=after)
    run_id = begin_run(ledger, job)
    assert wire.cuts == 1
    with Ledger.open(place, create=False) as other:
        assert [row["id"] for row in rows(other, "SELECT id FROM runs")] == [run_id]


@pytest.mark.parametrize("after", [False, True], ids=["before the commit", "after the commit"])
def test_what_the_writer_has_told_is_on_record_whatever_was_cut(ledger: Ledger, wire: Wire, after: bool) -> None:
    """The hot path: every attempt that `begin` gave a number is on record, once, and so is its ending."""
    job = enrolled(ledger, 8)
    run_id = begin_run(ledger, job)

    async def one(task_id: int, told: list[int]) -> None:
        found = await writer.begin(to_begin(job, run_id, task_id))
        assert isinstance(found, int)
        told.append(found)
        file = make_file(f"job/images/{task_id}.png", seed=task_id)
        await writer.commit(writer.received(found, answer=ANSWER, cost=COST, file=file))
        await writer.commit(
            writer.saved(found, task_id=task_id, file=file, model="gpt-image-1-mini", simulated=False, now_ms=9)
        )

    async def main() -> list[int]:
        told: list[int] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(writer.run)
            try:
                async with anyio.create_task_group() as makers:
                    for number, todo in enumerate(ledger.todo(job, -1, 8)):
                        if number % 2 == 0:
                            wire.cut_at(COMMIT, after=after)
                        makers.start_soon(one, todo.task_id, told)
            finally:
                await writer.close()
        return told

    writer = ledger.writer()
    told = anyio.run(main)
    assert wire.cuts >= 1
    found = rows(ledger, "SELECT id, outcome FROM attempts ORDER BY id")
    assert [row["id"] for row in found] == sorted(told)
    assert {row["outcome"] for row in found} == {"saved"}
    assert len(rows(ledger, "SELECT id FROM assets")) == 8


@pytest.mark.parametrize("sign", [b"INSERT INTO runs", b"UPDATE runs"])
def test_a_connection_that_is_lost_in_a_change_is_no_loss(ledger: Ledger, wire: Wire, sign: bytes) -> None:
    """The server rolls back what it did not finish; the change is made again."""
    job = enrolled(ledger, 1)
    wire.cut_at(sign, after=True)
    run_id = begin_run(ledger, job)
    ledger.end_run(run_id, exit_code=0, reason=None, now_ms=5)
    assert wire.cuts == 1
    assert rows(ledger, "SELECT id, ended_ms FROM runs") == [{"id": run_id, "ended_ms": 5}] or rows(
        ledger, "SELECT ended_ms FROM runs"
    ) == [{"ended_ms": 5}]


def test_a_question_that_is_cut_is_asked_again(ledger: Ledger, wire: Wire) -> None:
    """Who only reads notices nothing."""
    job = enrolled(ledger, 3)
    wire.cut_at(b"FROM tasks", after=False)
    assert len(ledger.todo(job, -1, 10)) == 3
    assert wire.cuts == 1


def test_connections_that_were_ended_meanwhile_are_not_used(ledger: Ledger, place: Server) -> None:
    """The server was started anew, or a firewall forgot them, while nobody asked for anything."""
    job = enrolled(ledger, 3)
    for _ in range(3):
        cut_now(place)
        with writing(ledger) as connection:
            connection.execute(sa.text("UPDATE jobs SET created_ms = created_ms + 1"))
        cut_now(place)
        assert len(ledger.todo(job, -1, 10)) == 3
        begin_run(ledger, job)


def test_a_block_of_changes_that_is_cut_has_changed_nothing(ledger: Ledger, place: Server) -> None:
    """What cannot be done again by itself ends with an error that says so."""
    enrolled(ledger, 3)
    with pytest.raises(LedgerError, match="lost in the middle") as caught, writing(ledger) as connection:
        connection.execute(sa.text("UPDATE tasks SET status = 'failed'"))
        cut_now(place)
        connection.execute(sa.text("UPDATE tasks SET error_code = 'x'"))
    assert PASSWORD not in str(caught.value)
    assert {row["status"] for row in rows(ledger, "SELECT status FROM tasks")} == {"planned"}


def test_a_server_that_is_away_is_waited_for_and_that_is_told(
    pg_server: postgres.Server, place: Server, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restart or a failover takes seconds: a run waits, says so once, and goes on."""
    monkeypatch.setattr(database, "TELL_S", 0.3)
    told: list[float] = []
    behind = Server(place.url.replace(f":{pg_server.port}/", f":{wire.port}/"))

    def wait(waited_s: float) -> None:
        told.append(waited_s)
        wire.open_up()

    with Ledger.open(behind, create=True, on_wait=wait) as ledger:
        job = enrolled(ledger, 3)
        wire.close_down()
        assert len(ledger.todo(job, -1, 10)) == 3
        wire.close_down()
        begin_run(ledger, job)
    assert len(told) == 2


def test_a_server_that_stays_away_ends_the_run_with_what_to_do(
    pg_server: postgres.Server, place: Server, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the wait: LedgerError, and not for each change anew."""
    monkeypatch.setattr(database, "WAIT_S", 0.5)
    behind = Server(place.url.replace(f":{pg_server.port}/", f":{wire.port}/"))
    with Ledger.open(behind, create=True) as ledger:
        job = enrolled(ledger, 3)
        wire.close_down()
        for ask in (partial(ledger.todo, job, -1, 10), partial(begin_run, ledger, job)):
            with pytest.raises(LedgerError, match="cannot be reached any more") as caught:
                ask()
            assert "goes on from what is on record" in str(caught.value.hint)
            assert PASSWORD not in str(caught.value)


def test_a_commit_of_which_nobody_can_tell_is_not_guessed(
    ledger: Ledger, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither done again (it could be there twice) nor taken for done (its request would be without a record)."""
    monkeypatch.setattr(database, "WAIT_S", 0.5)
    job = enrolled(ledger, 1)
    ledger._database._patience = database.Patience()  # type: ignore[attr-defined]  # as short as above
    wire.cut_at(COMMIT, after=True, for_good=True)
    with pytest.raises(LedgerError, match="nobody can tell"):
        begin_run(ledger, job)
    assert wire.cuts == 1


def test_two_who_block_each_other_both_come_through(ledger: Ledger, place: Server) -> None:
    """A deadlock is undone by the server: whoever was undone tries again."""
    job = enrolled(ledger, 2)
    first, second = (todo.task_id for todo in ledger.todo(job, -1, 2))
    meet = threading.Barrier(2)
    undone: list[LedgerError] = []

    @database.once_more
    def change(opened: Ledger, order: tuple[int, int], wait: Callable[[], object]) -> None:
        try:
            with writing(opened) as connection:
                for task_id in order:
                    connection.execute(
                        sa.text("UPDATE tasks SET position = position + 10 WHERE id = :id"), {"id": task_id}
                    )
                    wait()
        except database.Undone as error:
            undone.append(error)
            raise

    def pause() -> None:
        # The second time round nobody is there to be met.
        try:
            meet.wait(timeout=2)
        except threading.BrokenBarrierError:
            return

    with Ledger.open(place, create=True) as other:
        thread = threading.Thread(target=change, args=(other, (second, first), pause))
        thread.start()
        change(ledger, (first, second), pause)
        thread.join()
    assert len(undone) == 1
    assert "two at once" in str(undone[0])
    assert [row["position"] for row in rows(ledger, "SELECT position FROM tasks ORDER BY id")] == [20, 21]


def test_the_server_ends_by_itself_what_a_dead_host_left_open(place: Server) -> None:
    """A laptop that sleeps in the middle of a change does not hold what others wait for."""
    with Ledger.open(place, create=True) as ledger, writing(ledger) as connection:
        wanted = ("idle_in_transaction_session_timeout", "lock_timeout", "statement_timeout", "tcp_keepalives_idle")
        found = {name: connection.scalar(sa.text(f"SHOW {name}")) for name in wanted}
    assert found == {
        "idle_in_transaction_session_timeout": "2min",
        "lock_timeout": "1min",
        "statement_timeout": "30min",
        "tcp_keepalives_idle": "20",
    }
