"""Builders for the tests of ledger, store and recovery: tasks, real images, an open ledger with a job under way."""

from __future__ import annotations

import io
import random
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa
from PIL import Image
from psycopg.rows import dict_row

from runner.engine.events import Event
from runner.errors import Usage
from runner.ledger import (
    Answer,
    Begin,
    Cost,
    File,
    Job,
    Lacking,
    Ledger,
    Place,
    Rendition,
    RunStart,
    Server,
    Todo,
    Wanting,
    Writer,
    attempts,
)
from runner.ledger.postgres import ServerDatabase
from runner.ledger.sqlite import FileDatabase
from runner.store import Sealed
from runner.store.folder import FolderStore
from runner.tasks import Edit, ImageRequest, Input, Origin, Source, Task, task_key
from tests.servers import postgres

SIZE = "16x16"
NOW_MS = 1_795_000_000_000
RESERVED = 15_000
"""Micro-dollars that an attempt reserves unless a test says otherwise."""
COST = Cost(11_250, "usage", Usage(20, 272, 292, 20, 0), '{"output_tokens": 272}')
ESTIMATE = Cost(9_000, "estimate")
ANSWER = Answer("req-1", 200, 850)
REFUSAL = Answer("req-2", 400, 120, "moderation_blocked", "the safety system said no")


def make_task(
    prompt: str = "a lighthouse at dusk",
    *,
    prompt_id: str | None = None,
    size: str = SIZE,
    quality: str = "low",
    model: str = "gpt-image-1-mini",
    sample: int = 1,
    name: str | None = None,
    simulated: bool = False,
    line: int = 1,
    edit: Edit | None = None,
    composite: str | None = None,
    folder: str = "assets",
) -> Task:
    """One task; its file is named after its prompt's id, size, quality and sample unless `name` is given.

    The files of its edit's inputs lie in `folder`.
    """
    known_as = prompt_id or prompt.replace(" ", "-")
    request = ImageRequest(prompt, model, size, quality, edit=edit)
    inputs = () if edit is None else edit.images if edit.mask is None else (*edit.images, edit.mask)
    return Task(
        key=task_key(request, sample=sample, edition=None, simulated=simulated),
        prompt_id=known_as,
        sample=sample,
        request=request,
        variant=(("size", size), ("quality", quality)),
        name=name or f"{known_as}/{size}-{quality}-{sample}.png",
        origin=Origin("jobs/job.yaml", line, 3),
        sources=tuple(Source(one.identity, f'{{"path":"{folder}/{one.identity[:4]}.png"}}') for one in inputs),
        composite=composite,
    )


def make_edit(seed: int = 1, *, images: int = 1, mask: bool = True, fidelity: str | None = None) -> Edit:
    """What a task starts from; no file of it is there."""
    return Edit(
        tuple(Input(f"{seed:032x}{n:032x}", 640, 480) for n in range(images)),
        Input(f"{seed:032x}{'f' * 32}", 640, 480) if mask else None,
        fidelity,
    )


def make_tasks(count: int, *, simulated: bool = False) -> Iterator[Task]:
    """`count` tasks with a prompt each."""
    return (make_task(f"prompt {n:06d}", simulated=simulated, line=n + 1) for n in range(count))


class Places:
    """Where ledgers are while a test runs: in files, or each in a database of its own on a server."""

    def __init__(self) -> None:
        self.server: postgres.Server | None = None
        self._made: dict[Path, Server] = {}

    def of(self, folder: Path) -> Place:
        """The place of the ledger of `folder`; the same one for the same folder."""
        if self.server is None:
            return folder / "ledger.sqlite3"
        if folder not in self._made:
            self._made[folder] = Server(fresh(self.server))
        return self._made[folder]

    @contextmanager
    def on(self, server: postgres.Server) -> Iterator[None]:
        """On this server, for the block; what was made there is dropped."""
        self.server = server
        try:
            yield
        finally:
            for place in self._made.values():
                server.drop(place.url)
            self._made.clear()
            self.server = None


places = Places()


def fresh(server: postgres.Server) -> str:
    """A database with the ledger's schema and nothing in it; its URL."""
    if not server.run("SELECT 1 FROM pg_database WHERE datname = 'template_ledger'"):
        server.run("CREATE DATABASE template_ledger")
        Ledger.open(Server(server.url("template_ledger")), create=True).close()
    name = f"ledger_{next(_numbers)}"
    server.run(f"CREATE DATABASE {name} TEMPLATE template_ledger")
    return server.url(name)


_numbers = count(1)


@contextmanager
def open_ledger(folder: Path) -> Iterator[Ledger]:
    """The ledger of `folder`, closed at the end."""
    with Ledger.open(places.of(folder), create=True) as ledger:
        yield ledger


def enrolled(ledger: Ledger, tasks: Iterable[Task] | int, *, name: str = "job", digest: str = "d1") -> Job:
    """A job that wants `tasks` (or that many of them)."""
    job = ledger.make_job(name, manifest_path=f"jobs/{name}.yaml", now_ms=NOW_MS)
    return ledger.enrol(job, make_tasks(tasks) if isinstance(tasks, int) else tasks, digest=digest)


def begin_run(ledger: Ledger, job: Job, *, simulated: bool = False) -> int:
    """A run on record."""
    start = RunStart("openai", None, simulated, "host", 4711, "0.1.0", "name: job\n", "2026-11-22")
    return ledger.begin_run(job, start, now_ms=NOW_MS)


def to_begin(job: Job, run_id: int, task_id: int, **changes: Any) -> Begin:
    """The attempt that a pool would put on record."""
    base = Begin(task_id, run_id, job.id, "gpt-image-1-mini", False, RESERVED, "2026-11-22", NOW_MS)
    return replace(base, **changes)


def write(ledger: Ledger) -> AbstractContextManager[sa.Connection]:
    """A transaction of the ledger's own, for the operations in `attempts`."""
    return ledger._database.write()


def read(ledger: Ledger) -> AbstractContextManager[sa.Connection]:
    """A snapshot of the ledger's own."""
    return ledger._database.read()


def path_of(ledger: Ledger) -> Path:
    """The file of a ledger that is one."""
    assert isinstance(ledger.place, Path)
    return ledger.place


def address_of(ledger: Ledger) -> str:
    """What another process is told, to open the same ledger."""
    return ledger.place.url if isinstance(ledger.place, Server) else str(ledger.place)


def engines(ledger: Ledger) -> tuple[sa.Engine, sa.Engine]:
    """What a ledger writes with, and what it reads with."""
    database = ledger._database
    assert isinstance(database, (FileDatabase, ServerDatabase))
    return database._writer, database._reader


async def begun(writer: Writer, what: Begin) -> int:
    """`Writer.begin`, whatever other jobs have made; the attempt's id."""
    found = await writer.begin(what, alone=True)
    assert isinstance(found, int)
    return found


def begin(ledger: Ledger, job: Job, run_id: int, task_id: int, **changes: Any) -> int:
    """`attempts.begin`, committed; the attempt's id. Also of a run that is not its job's newest any more."""
    with write(ledger) as connection:
        newest = connection.scalar(sa.text("SELECT max(id) FROM runs WHERE job_id = :job"), {"job": job.id})
        made = attempts.begin(
            connection, to_begin(job, newest, task_id, **changes), alone=True, is_live=lambda _job: False
        )
        assert isinstance(made, int)
        if newest != run_id:
            connection.execute(sa.text("UPDATE attempts SET run_id = :run WHERE id = :id"), {"run": run_id, "id": made})
        return made


def finish(ledger: Ledger, job: Job, run_id: int, todo: Todo, *, cost: Cost = COST, **changes: Any) -> File:
    """Begin, receive and save one task without a file on disk."""
    attempt_id = begin(ledger, job, run_id, todo.task_id, **changes)
    file = make_file(f"{job.name}/images/{todo.name}", seed=todo.task_id)
    what = to_begin(job, run_id, todo.task_id, **changes)
    with write(ledger) as connection:
        attempts.received(connection, attempt_id, answer=ANSWER, cost=cost, file=file)
        attempts.saved(
            connection,
            attempt_id,
            task_id=todo.task_id,
            file=file,
            model=what.model,
            simulated=what.simulated,
            now_ms=what.now_ms + 1000,
        )
    return file


def make_file(path: str = "job/images/a.png", *, seed: int = 1) -> File:
    """What is on record of a file that no test looks for on disk."""
    return File(path, f"{seed:064x}", 100 + seed, "png", 16, 16, False)


def rows(ledger: Ledger, query: str, *values: object) -> list[dict[str, Any]]:
    """Rows as another connection sees them: only what is committed."""
    if isinstance(ledger.place, Server):
        with connected(ledger.place) as server:
            cursor = server.cursor(row_factory=dict_row)
            return cursor.execute(_translated(query), values).fetchall()
    with closing(sqlite3.connect(ledger.place)) as database:
        database.row_factory = sqlite3.Row
        return [dict(row) for row in database.execute(query, values)]


def change(ledger: Ledger, statement: str, *values: object, wait_s: float = 5) -> None:
    """A change that no operation makes, to build a situation; a lock is waited for no longer than told."""
    if isinstance(ledger.place, Server):
        with connected(ledger.place, options=f"-c lock_timeout={max(1, round(wait_s * 1000))}") as server:
            server.execute(_translated(statement), values)
        return
    with closing(sqlite3.connect(ledger.place, timeout=wait_s)) as database, database:
        database.execute(statement, values)


def contents(ledger: Ledger) -> dict[str, list[tuple[object, ...]]]:
    """Every committed row of every table."""
    if isinstance(ledger.place, Server):
        with connected(ledger.place) as server:
            found = server.execute("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()").fetchall()
            return {
                str(name): server.execute(f"SELECT * FROM {name} ORDER BY 1".encode()).fetchall() for (name,) in found
            }
    with closing(sqlite3.connect(ledger.place)) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {table: database.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall() for table in tables}


def connected(place: Server, **options: Any) -> psycopg.Connection[Any]:
    """A connection past the ledger; as a context manager it commits at the end."""
    return psycopg.connect(place.url.replace("+psycopg", ""), **options)


def _translated(query: str) -> bytes:
    """SQLite's words as PostgreSQL's."""
    return query.replace("%", "%%").replace("?", "%s").encode()


@cache
def png(seed: int = 1, size: str = SIZE, kind: str = "PNG") -> bytes:
    """A real image of this size, different for each seed."""
    width, height = (int(part) for part in size.split("x"))
    noise = random.Random(seed).randbytes(width * height * 3)
    buffer = io.BytesIO()
    Image.frombytes("RGB", (width, height), noise).save(buffer, kind)
    return buffer.getvalue()


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below `folder` but the ledger's own, with its bytes."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith("ledger.sqlite3")
    }


@dataclass
class House:
    """A ledger and a store with a job whose run is under way, or has died."""

    ledger: Ledger
    store: FolderStore
    job: Job
    run_id: int
    events: list[Event] = field(default_factory=list)

    @property
    def output(self) -> Path:
        return self.store.output

    def todo(self) -> list[Todo]:
        """What is planned."""
        return self.ledger.todo(self.job, -1, 1000)

    def begin(self, todo: Todo, **changes: Any) -> int:
        """An attempt on record."""
        return begin(self.ledger, self.job, self.run_id, todo.task_id, **changes)

    def receive(self, attempt_id: int, data: bytes) -> Sealed:
        """The image whole under its temporary name."""
        partial = self.store.partial(attempt_id)
        partial.write(data)
        return partial.seal()

    def record(self, attempt_id: int, todo: Todo, sealed: Sealed, *, cost: Cost = COST) -> File:
        """`received` on record."""
        file = file_of(sealed, self.store.path(todo.name))
        with write(self.ledger) as connection:
            attempts.received(connection, attempt_id, answer=ANSWER, cost=cost, file=file)
        return file

    def save(self, attempt_id: int, todo: Todo, file: File) -> None:
        """`saved` on record."""
        with write(self.ledger) as connection:
            attempts.saved(
                connection,
                attempt_id,
                task_id=todo.task_id,
                file=file,
                model="gpt-image-1-mini",
                simulated=False,
                now_ms=NOW_MS,
            )

    def make(self, todo: Todo, data: bytes) -> File:
        """Everything that makes a task done."""
        attempt_id = self.begin(todo)
        file = self.record(attempt_id, todo, self.receive(attempt_id, data))
        self.store.place(attempt_id, file.path)
        self.save(attempt_id, todo, file)
        return file

    def task(self, task_id: int) -> dict[str, Any]:
        """A task's row."""
        return rows(self.ledger, "SELECT * FROM tasks WHERE id = ?", task_id)[0]

    def attempt(self, attempt_id: int) -> dict[str, Any]:
        """An attempt's row."""
        return rows(self.ledger, "SELECT * FROM attempts WHERE id = ?", attempt_id)[0]

    def asset(self, task_id: int) -> dict[str, Any] | None:
        """The asset of a task."""
        found = rows(self.ledger, "SELECT * FROM assets WHERE task_id = ?", task_id)
        return found[0] if found else None

    def partials(self) -> list[str]:
        """The temporary files."""
        return sorted(path.name for path in (self.output / self.job.name / ".partial").iterdir())


@contextmanager
def open_house(folder: Path, tasks: Iterable[Task] | int = 3, *, name: str = "job") -> Iterator[House]:
    """A house whose output folder is `folder`; several jobs can share it."""
    with open_ledger(folder) as ledger:
        yield move_in(ledger, folder, tasks, name=name)


def move_in(ledger: Ledger, folder: Path, tasks: Iterable[Task] | int, *, name: str) -> House:
    """One more job in an open ledger."""
    store = FolderStore(folder, name)
    store.prepare()
    job = enrolled(ledger, tasks, name=name)
    return House(ledger, store, job, begin_run(ledger, job))


def file_of(sealed: Sealed, path: str) -> File:
    """A sealed image as the ledger records it."""
    facts = sealed.facts
    return File(path, sealed.sha256, sealed.bytes, facts.format, facts.width, facts.height, facts.has_c2pa)


def rendition(item: Wanting | Lacking, kind: str, recipe: str, path: str, *, size_bytes: int = 100) -> Rendition:
    """A file that was made of what lacked it."""
    return Rendition(
        task_id=item.task_id,
        kind=kind,
        recipe=recipe,
        asset_sha256=item.sha256,
        task_name=item.name,
        path=path,
        sha256="a" * 64,
        bytes=size_bytes,
    )
