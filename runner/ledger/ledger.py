"""The ledger as the rest of the house sees it.

Owns the life of an open ledger and of its runs, and hands out reads as values. The pool writes through `Writer`. It is
long because every question has its method here; hardly one does more than open a transaction.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import sqlalchemy as sa

from runner.ledger import attempts, audit, claims, edits, enrol, exports, queries, tiles
from runner.ledger.batches import Batches
from runner.ledger.caps import Caps
from runner.ledger.database import Database, once_more
from runner.ledger.gates import Gates
from runner.ledger.nights import Nights
from runner.ledger.places import Place
from runner.ledger.renditions import Renditions
from runner.ledger.reviews import Reviews
from runner.ledger.soundness import look_at_file
from runner.ledger.sqlite import open_file
from runner.ledger.tables import metadata
from runner.ledger.types import (
    Answer,
    By,
    Contradiction,
    File,
    Job,
    Misplaced,
    Orphan,
    Paid,
    Recorded,
    Reusable,
    RunStart,
    Seen,
    Spending,
    Todo,
)
from runner.ledger.views import Relative, Tile
from runner.ledger.writer import Writer
from runner.planner import CHUNK, Known, Lookup, chunks
from runner.tasks import Event, Status, Task, after

P = ParamSpec("P")
T = TypeVar("T")
_runs = metadata.tables["runs"]
_tasks = metadata.tables["tasks"]

_EDITS = "0003"
"""The schema's version since which there are edits, and files that are derived from images."""
_BATCHES = "0004"
"""The schema's version since which there are batches."""
_LOOKING = "0005"
"""The schema's version since which choices and origins are on record."""
_SHARING = "0006"
"""The schema's version since which several hosts may share a ledger, and it may have a cap."""
ENROLLED = 25_000
"""Tasks that are put on record in one transaction."""


class Ledger:
    """One open ledger. Every method is one transaction, unless it says otherwise."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(cls, place: Place, *, create: bool, on_wait: Callable[[float], None] | None = None) -> Ledger:
        """Open the ledger at `place`; see `sqlite.open_file` and `postgres.open_server` for what can go wrong, and what
        `on_wait` is told."""
        if isinstance(place, Path):
            return cls(open_file(place, create=create, on_wait=on_wait))
        # Only where one is asked for: it takes time to import.
        from runner.ledger.postgres import open_server

        return cls(open_server(place, create=create, on_wait=on_wait))

    @staticmethod
    def exists(place: Place) -> bool:
        """Whether anything that may be a ledger lies at `place`.

        Raises:
            InputError: its server cannot be used.
            LedgerError: something lies there that cannot be one, or it cannot be seen.
        """
        if isinstance(place, Path):
            return look_at_file(place)
        from runner.ledger.postgres import is_there

        return is_there(place)

    @property
    def place(self) -> Place:
        """Where the ledger is; `str()` of it is fit for messages."""
        return self._database.place

    @property
    def is_shared(self) -> bool:
        """Whether other hosts may use it at the same time."""
        return self._database.is_shared

    def close(self) -> None:
        """Give the database back."""
        self._database.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def batches(self) -> Batches:
        """What is on record of batches."""
        return Batches(self._database, known=self._database.knows(_BATCHES))

    @property
    def renditions(self) -> Renditions:
        """What was derived from assets."""
        return Renditions(self._database)

    @property
    def reviews(self) -> Reviews:
        """What people have chosen."""
        return Reviews(self._database, known=self._database.knows(_LOOKING))

    @property
    def nights(self) -> Nights:
        """What single runs have done, and what days have cost."""
        return Nights(self._database, known=self._database.knows(_BATCHES))

    def gates(self, key: str, run: str) -> Gates:
        """The gates of a provider key, by its digest, for a run of this name."""
        return Gates(self._database, key, run)

    @property
    def caps(self) -> Caps:
        """What all jobs together may spend."""
        return Caps(self._database, known=self._database.knows(_SHARING))

    def writer(self) -> Writer:
        """The pool's group-committing writer."""
        return Writer(self._database)

    def lock(self, job: str, *, now: dt.datetime) -> AbstractContextManager[None]:
        """Hold a job for one run; raises Locked."""
        return self._database.lock(job, now=now)

    def is_held(self, job: str) -> bool:
        """Whether a live run holds the job of this name."""
        return self._database.is_held(job)

    # -- jobs and what they want ----------------------------------------------------------------

    @once_more
    def job(self, name: str) -> Job | None:
        """The job of this name, if it was ever run."""
        with self._database.read() as connection:
            return enrol.job(connection, name, knows_output=self._database.knows(_SHARING))

    @once_more
    def jobs(self) -> list[Job]:
        """Every job, by name."""
        with self._database.read() as connection:
            return enrol.jobs(connection, knows_output=self._database.knows(_SHARING))

    @once_more
    def make_job(self, name: str, *, manifest_path: str | None, now_ms: int) -> Job:
        """The job of this name, made if need be."""
        with self._database.write() as connection:
            return enrol.make_job(connection, name, manifest_path=manifest_path, now_ms=now_ms)

    @once_more
    def move_job(self, job: Job, output: str | None) -> Job:
        """The files of a job lie below this URL from now on, None for a folder; the job as it is then."""
        with self._database.write() as connection:
            enrol.move_job(connection, job.id, output)
        return replace(job, output=output)

    @once_more
    def known(self, job: Job | None, keys: Sequence[str]) -> Mapping[str, Known]:
        """What is on record of these keys, in this job and in others."""
        with self._database.read() as connection:
            return enrol.known(connection, job.id if job else None, keys)

    @once_more
    def lookup(self, job: Job | None) -> Lookup:
        """`known` for every key in turn; where nothing at all is on record, nothing is asked."""
        with self._database.read() as connection:
            if not enrol.any_tasks(connection):
                return lambda keys: {}
        return lambda keys: self.known(job, keys)

    def enrol(self, job: Job, tasks: Iterable[Task], *, digest: str) -> Job:
        """Make `tasks` what the job wants; idempotent.

        In many transactions, each of a fraction of a second: see `ledger.enrol` for what holds when it is cut off.
        """
        with self._database.bulk() as write:
            with write() as connection:
                enrolment = enrol.Enrolment(connection, job.id)
            with closing(enrolment):
                for chunk in chunks(tasks, ENROLLED):
                    with write() as connection:
                        prompts = enrolment.prompts(connection, chunk)
                        starts = enrolment.starts(connection, chunk)
                    rows = enrolment.rows(chunk, prompts, starts)
                    with write() as connection:
                        enrolment.add(connection, rows)
                with write() as connection:
                    enrolment.activate(connection, digest=digest)
        return replace(job, revision=enrolment.revision, digest=digest, wanted=enrolment.wanted)

    def reusable(self, job: Job) -> Iterator[list[Reusable]]:
        """Planned tasks that another job has made already, in pages; one item for each asset that would serve."""
        last = (-1, 0)
        while True:
            page = self._read(enrol.reusable, job.id, job.revision, last, CHUNK)
            if not page:
                return
            last = page[-1].position, page[-1].asset_id
            yield page

    @once_more
    def reusable_for(self, job: Job, task_id: int) -> list[Reusable]:
        """As `reusable`, for one task."""
        with self._database.read() as connection:
            return enrol.reusable(connection, job.id, job.revision, (-1, 0), CHUNK, _tasks.c.id == task_id)

    @once_more
    def elsewhere(self, task_id: int) -> Status | None:
        """How another job stands with the very image of a task: RUNNING (in a live run), DONE, or None for neither."""
        with self._database.read() as connection:
            return claims.elsewhere(connection, task_id, is_live=self._database.is_held)

    @once_more
    def others_under_way(self, job: Job) -> bool:
        """Whether any other job's newest run has not said that it is over."""
        with self._database.read() as connection:
            return claims.others_under_way(connection, job.id)

    @once_more
    def has_offers(self, job: Job) -> bool:
        """Whether other jobs may have made what is planned here: none, without a run of theirs since `offered`."""
        with self._database.read() as connection:
            return enrol.others_since_offered(connection, job.id)

    @once_more
    def offerable(self, job: Job) -> int | None:
        """What `offered` may be told once all of `reusable` was taken; None where more of it can come."""
        with self._database.read() as connection:
            return enrol.offerable(connection, job.id, job.revision)

    @once_more
    def offered(self, job: Job, run_id: int) -> None:
        """All that other jobs have made in runs up to this one was offered to the job, and taken."""
        with self._database.write() as connection:
            enrol.mark(connection, job.id, offered_run=run_id)

    def misplaced(self, job: Job, folder: str) -> Iterator[list[Misplaced]]:
        """Done tasks whose asset is not where the manifest now wants it, in pages."""
        last = -1
        while True:
            page = self._read(enrol.misplaced, job.id, job.revision, folder, last, CHUNK)
            if not page:
                return
            last = page[-1].position
            yield page

    @once_more
    def is_tidy(self, job: Job) -> bool:
        """Whether the job wants what it wanted when it was `tidied`: nothing has moved an asset from its name since.

        Room is made only for an image that has the same name, and of those that are wanted no two have one.
        """
        with self._database.read() as connection:
            return enrol.is_tidy(connection, job.id, job.revision)

    @once_more
    def tidied(self, job: Job) -> None:
        """Every asset of what the job wants lies where the manifest wants it."""
        with self._database.write() as connection:
            enrol.mark(connection, job.id, tidied_revision=job.revision)

    @once_more
    def _read(self, question: Callable[Concatenate[sa.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        with self._database.read() as connection:
            return question(connection, *args, **kwargs)

    # -- runs -----------------------------------------------------------------------------------

    @once_more
    def begin_run(self, job: Job, start: RunStart, *, now_ms: int) -> int:
        """Put a run on record; its id."""
        with self._database.write() as connection:
            if self.is_shared:
                # Numbers of runs are committed in their order: who has seen one (`offerable`) has seen those before it.
                connection.exec_driver_sql("LOCK TABLE runs IN SHARE ROW EXCLUSIVE MODE")
            result = connection.execute(
                sa.insert(_runs).values(
                    job_id=job.id,
                    provider=start.provider,
                    base_url=start.base_url,
                    simulated=start.simulated,
                    host=start.host,
                    pid=start.pid,
                    version=start.version,
                    manifest=start.manifest,
                    price_version=start.price_version,
                    started_ms=now_ms,
                )
            )
            return attempts.inserted(result)

    @once_more
    def end_run(self, run_id: int, *, exit_code: int, reason: str | None, now_ms: int) -> None:
        """A run has ended, and why."""
        with self._database.write() as connection:
            connection.execute(
                sa.update(_runs).where(_runs.c.id == run_id).values(exit_code=exit_code, reason=reason, ended_ms=now_ms)
            )

    # -- reads ----------------------------------------------------------------------------------

    @once_more
    def todo(self, job: Job, after_position: int, limit: int) -> list[Todo]:
        """The next planned tasks in the manifest's order."""
        with self._database.read() as connection:
            return queries.todos(connection, job, after_position, limit)

    @once_more
    def orphans(self, job: Job, limit: int) -> list[Orphan]:
        """Tasks that a dead run left running."""
        with self._database.read() as connection:
            return queries.orphans(connection, job, limit)

    @once_more
    def spending(
        self, job: Job, *, simulated: bool, since_ms: int | None = None, run_id: int | None = None
    ) -> Spending:
        """What counts against a cap; with `run_id`, what a run has spent and what it has collected of batches."""
        with self._database.read() as connection:
            if run_id is not None:
                return queries.spent_by(
                    connection, job_id=job.id, simulated=simulated, run_id=run_id, since_ms=since_ms
                )
            knows = self._database.knows(_BATCHES)
            return queries.spending(connection, job_id=job.id, simulated=simulated, since_ms=since_ms, batches=knows)

    @once_more
    def doubt_found(self, run_id: int, *, simulated: bool) -> int:
        """What a run has put on record as in doubt, a dead run's requests included."""
        with self._database.read() as connection:
            return queries.doubt_found(connection, run_id=run_id, simulated=simulated)

    @once_more
    def statuses(self, job: Job) -> dict[Status, int]:
        """How many wanted tasks are in each status."""
        with self._database.read() as connection:
            return queries.statuses(connection, job)

    @once_more
    def reused(self, job: Job) -> int:
        """How many wanted tasks were taken over from another job."""
        with self._database.read() as connection:
            return queries.reused(connection, job)

    @once_more
    def requests(self, run_id: int) -> tuple[int, int]:
        """How many requests a run has made, and how many of them brought an image."""
        with self._database.read() as connection:
            return queries.requests(connection, run_id)

    @once_more
    def costs(self, by: By, job: Job | None) -> list[dict[str, Any]]:
        """Spending grouped by one thing."""
        with self._database.read() as connection:
            return queries.costs(connection, by, job)

    @once_more
    def problems(self, job: Job, limit: int = 10) -> list[dict[str, Any]]:
        """Why wanted tasks are not done."""
        with self._database.read() as connection:
            return queries.problems(connection, job, limit)

    @once_more
    def last_run(self, job: Job) -> dict[str, Any] | None:
        """The newest run of a job."""
        with self._database.read() as connection:
            return queries.last_run(connection, job)

    @contextmanager
    def export(self, job: Job) -> Iterator[Iterator[dict[str, Any]]]:
        """A stream of every wanted task; one snapshot for the whole block."""
        knows_batches = self._database.knows(_BATCHES)
        with (
            self._database.read() as connection,
            closing(exports.export(connection, job, knows_batches=knows_batches)) as stream,
        ):
            yield stream

    @contextmanager
    def tiles(self, job: Job, task_ids: Sequence[int] | None = None) -> Iterator[Iterator[Tile]]:
        """A stream of every wanted task as it is looked at, or of these (at most CHUNK); one snapshot for the block."""
        knows_edits = self._database.knows(_EDITS)
        # A stream that is left half way, and not closed, would hold its snapshot for whoever reads next.
        with (
            self._database.read() as connection,
            closing(tiles.tiles(connection, job, task_ids, knows_edits=knows_edits)) as stream,
        ):
            yield stream

    @once_more
    def relatives(self, job: Job) -> list[Relative]:
        """What the job's images were made again from, and what they became."""
        if not self._database.knows(_LOOKING):
            return []
        with self._database.read() as connection:
            return list(tiles.relatives(connection, job))

    @once_more
    def link_origins(self, job: Job, origins: Mapping[str, Sequence[str]], *, of_job: str, now_ms: int) -> int:
        """Put on record which images (by key) the job's prompts (by id) are made again from; how many were found."""
        with self._database.write() as connection:
            return tiles.link(connection, job, origins, of_job=of_job, now_ms=now_ms)

    def check(self, *, deep: bool = False) -> list[str]:
        """What the database's own checks complain of; `deep` takes as long as the ledger is large."""
        return self._database.check(deep=deep)

    # -- what is on record of assets, for whoever looks at their files ---------------------------

    @once_more
    def totals(self, job: Job) -> tuple[int, int]:
        """How many assets a job has on record, and their bytes; also those that it no longer wants."""
        with self._database.read() as connection:
            return audit.totals(connection, job.id)

    def assets(self, job: Job) -> Iterator[Recorded]:
        """Every asset of a job, read in pages; also those that it no longer wants."""
        last = 0
        while True:
            page = self._read(audit.assets, last, CHUNK)
            if not page:
                return
            last = page[-1].asset_id
            yield from (item for item in page if item.job == job.name)

    @once_more
    def assets_of(self, asset_ids: Sequence[int]) -> list[Recorded]:
        """These assets (at most CHUNK), as far as they are still on record."""
        with self._database.read() as connection:
            return audit.assets_of(connection, asset_ids)

    @contextmanager
    def same_bytes(self, digests: Sequence[str]) -> Iterator[Iterator[Recorded]]:
        """A stream of the assets of any job with one of these hashes (at most CHUNK of them)."""
        with self._database.read() as connection, closing(audit.same_bytes(connection, digests)) as stream:
            yield stream

    @once_more
    def recorded(self, job: Job, paths: Sequence[str]) -> set[str]:
        """Those of these paths (at most CHUNK) at which an asset is, or is about to be, on record."""
        with self._database.read() as connection:
            return audit.recorded(connection, job.id, paths)

    @once_more
    def paid(self, asset_ids: Sequence[int]) -> list[Paid]:
        """What these assets (at most CHUNK) were asked for and have cost."""
        with self._database.read() as connection:
            return audit.paid(connection, asset_ids)

    @contextmanager
    def contradictions(self, job: Job) -> Iterator[Iterator[Contradiction]]:
        """A stream of what cannot all be true of a job; one snapshot for the whole block."""
        with self._database.read() as connection, closing(audit.contradictions(connection, job)) as stream:
            yield stream

    # -- what recovery finds --------------------------------------------------------------------

    @once_more
    def lose(self, orphan: Orphan, answer: Answer, *, now_ms: int) -> None:
        """A dead run's attempt may have been billed, and left no image."""
        with self._database.write() as connection:
            attempts.lost(
                connection, orphan.attempt_id, task_id=orphan.task_id, answer=answer, try_again=False, now_ms=now_ms
            )

    @once_more
    def found(self, orphan: Orphan, file: File) -> None:
        """A dead run's image is whole, and about to get the name that `file` gives."""
        with self._database.write() as connection:
            attempts.found(connection, orphan.attempt_id, file)

    @once_more
    def adopt(self, orphan: Orphan, file: File, *, now_ms: int) -> None:
        """A dead run's image was found whole on disk."""
        with self._database.write() as connection:
            attempts.adopted(connection, orphan, file, now_ms=now_ms)

    @once_more
    def reuse(self, item: Reusable, file: File, *, now_ms: int) -> None:
        """Another job's image serves this task as well."""
        with self._database.write() as connection:
            attempts.reused(connection, item, file, now_ms=now_ms)

    @once_more
    def asset_at(self, path: str) -> int | None:
        """The asset that is recorded at `path` (relative to the output folder)."""
        with self._database.read() as connection:
            return attempts.asset_at(connection, path)

    @once_more
    def asset_path(self, asset_id: int) -> str:
        """Where an asset lies now."""
        with self._database.read() as connection:
            return attempts.asset_path(connection, asset_id)

    @once_more
    def asset_moved(self, asset_id: int, path: str) -> None:
        """An asset lies elsewhere now."""
        with self._database.write() as connection:
            attempts.asset_moved(connection, asset_id, path)

    # -- edits ----------------------------------------------------------------------------------

    @once_more
    def has_inputs(self, job: Job) -> bool:
        """Whether anything that the job wants starts, or once started, from an image."""
        with self._database.read() as connection:
            return edits.has_inputs(connection, job.id)

    @once_more
    def seen_edits(self, *, simulated: bool, limit: int = 200) -> list[Seen]:
        """What the newest edits took, whichever job they were of."""
        with self._database.read() as connection:
            return edits.seen(connection, simulated=simulated, limit=limit)

    # -- asked by a person ----------------------------------------------------------------------

    @once_more
    def retry(self, job: Job, status: Status, code: str | None) -> int:
        """Make failed, refused or in-doubt tasks planned again; how many there were."""
        change = sa.update(_tasks).where(
            _tasks.c.job_id == job.id, _tasks.c.revision == job.revision, _tasks.c.status == status
        )
        if code is not None:
            change = change.where(_tasks.c.error_code == code)
        with self._database.write() as connection:
            count = connection.execute(change.values(status=after(status, Event.RETRY))).rowcount
            if count and status is not Status.IN_DOUBT:
                # A doubt was offered what others have made before it was begun (`offerable`); these perhaps never were.
                enrol.mark(connection, job.id, offered_run=0)
            return count

    @once_more
    def gone(self, lost: Sequence[Recorded]) -> None:
        """The files of these assets are lost: their tasks are planned again, all of them or none."""
        with self._database.write() as connection:
            for item in lost:
                attempts.gone(connection, task_id=item.task_id, asset_id=item.asset_id)
            for name in {item.job for item in lost}:
                enrol.forget_offered(connection, name)
