"""The laws of the design held against a folder, whatever happened in it: ledger, files, and the simulator's own bill.

Owns what must be true at every instant, and what must be true once jobs have come to their end. The ledger is read by
plain SQL, files are hashed anew, and what was asked and billed is the simulator's word. Refuses to know how a run was
ended: each check answers with sentences, one for each law that does not hold.
"""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Asked = tuple[str, str]
"""What a request asks for: the hash of its prompt, and its size."""

_UNUSABLE = ("not_image", "wrong_size", "wrong_format", "truncated_image")
"""Answers that arrive whole with a file that is not what was asked for."""
_QUERIES = {
    "jobs": "SELECT * FROM jobs",
    "runs": "SELECT * FROM runs ORDER BY id",
    "tasks": "SELECT t.*, j.name AS job, p.text, t.revision = j.revision AS wanted FROM tasks t "
    "JOIN jobs j ON j.id = t.job_id JOIN prompts p ON p.id = t.prompt_row",
    "attempts": "SELECT * FROM attempts ORDER BY id",
    "assets": "SELECT * FROM assets",
    "batches": "SELECT * FROM batches",
    "renditions": "SELECT r.*, t.revision = j.revision AND t.status = 'done' AS wanted FROM renditions r "
    "JOIN tasks t ON t.id = r.task_id JOIN jobs j ON j.id = t.job_id",
}


@dataclass(frozen=True, slots=True)
class Books:
    """Every row of a ledger; all empty before there are tables."""

    jobs: list[Row] = field(default_factory=list)
    runs: list[Row] = field(default_factory=list)
    tasks: list[Row] = field(default_factory=list)
    attempts: list[Row] = field(default_factory=list)
    assets: list[Row] = field(default_factory=list)
    renditions: list[Row] = field(default_factory=list)
    batches: list[Row] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)

    @classmethod
    def copied(cls, ledger: Path) -> Books:
        """Read from a copy: to open what a dead run has left would already clear some of it up."""
        if not ledger.exists():
            return cls()
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder, ledger.name)
            for suffix in ("", "-wal"):
                part = ledger.with_name(ledger.name + suffix)
                if part.exists():
                    shutil.copyfile(part, copy.with_name(part.name))
            with closing(sqlite3.connect(copy)) as connection:
                connection.row_factory = sqlite3.Row
                damage = [row[0] for row in connection.execute("PRAGMA integrity_check") if row[0] != "ok"]
                damage += [f"a broken reference in {row[0]}" for row in connection.execute("PRAGMA foreign_key_check")]
                if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'assets'").fetchone() is None:
                    return cls(damage=damage)
                return cls.of(lambda query: [dict(row) for row in connection.execute(query)], damage)

    @classmethod
    def of(cls, rows: Callable[[str], list[Row]], damage: Sequence[str] = ()) -> Books:
        """Read by whatever answers queries, at one instant."""
        return cls(**{name: rows(sql) for name, sql in _QUERIES.items()}, damage=list(damage))

    def asked(self) -> dict[int, Asked]:
        """What each task asks for."""
        return {task["id"]: (sha256_of(task["text"]), task["size"]) for task in self.tasks}

    def open(self) -> set[int]:
        """The attempts under way that have no end on record; what is in a batch goes on without its run."""
        return {
            attempt["id"] for attempt in self.attempts if attempt["outcome"] is None and attempt["batch_row"] is None
        }

    def in_batches(self) -> Counter[Asked]:
        """What the provider works on in batches, or has made and nobody has collected, and how often."""
        asked = self.asked()
        return Counter(
            asked[attempt["task_id"]]
            for attempt in self.attempts
            if attempt["outcome"] is None and attempt["batch_row"] is not None
        )

    def done(self) -> set[Asked]:
        """What is done, in whichever job."""
        asked = self.asked()
        return {asked[task["id"]] for task in self.tasks if task["status"] == "done"}

    def begun(self) -> Counter[Asked]:
        """How many attempts are on record."""
        asked = self.asked()
        return Counter(asked[attempt["task_id"]] for attempt in self.attempts)

    def doubt_microusd(self) -> int:
        """What is in doubt."""
        return sum(attempt["doubt_microusd"] or 0 for attempt in self.attempts)

    def settled_microusd(self) -> int:
        """What is known to have been billed, or taken as such."""
        return sum(attempt["cost_microusd"] or 0 for attempt in self.attempts)


def sha256_of(text: str) -> str:
    """The hash of a prompt, as the simulator's bill has it."""
    return hashlib.sha256(text.encode()).hexdigest()


def asked_of(entry: Row) -> Asked:
    """What an entry of the bill was asked for."""
    return entry["prompt_sha256"], entry["size"]


def files_below(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file below `folder`, by its path relative to it."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                found[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


Files = Path | Mapping[str, str]
"""An output folder, or the SHA-256 of every file of an output place, by its path relative to it."""


def _found(files: Files) -> Mapping[str, str]:
    if not isinstance(files, Path):
        return files
    return files_below(files) if files.exists() else {}


def at_every_instant(books: Books, entries: Sequence[Row], output: Files, cap_microusd: int | None) -> Iterator[str]:
    """What holds of an output place at the very instant of a kill, and at any other; the cap is that of each job."""
    yield from (f"the ledger is damaged: {words}" for words in books.damage)
    begun = books.begun()
    for asked, count in Counter(map(asked_of, entries)).items():
        if count > begun[asked]:
            yield f"law 1: {count} requests were billed and {begun[asked]} are on record, for the prompt {asked}"

    served = {image for entry in entries for image in entry["images"]}
    files = _found(output)
    images = {path: digest for path, digest in files.items() if path.split("/")[1:2] in (["images"], ["superseded"])}
    for path, digest in images.items():
        if digest not in served:
            yield f"laws 2 and 5: {path} is not what was served"
    there = set(images.values())
    for asset in books.assets:
        if asset["sha256"] not in there:
            yield f"law 2: the image of task {asset['task_id']} is on record and nowhere on disk"
    with_asset = {asset["task_id"] for asset in books.assets}
    for task in books.tasks:
        has = "an" if task["id"] in with_asset else "no"
        if (task["status"] == "done") != (has == "an"):
            yield f"law 2: task {task['id']} is {task['status']}, and has {has} image"

    spent: Counter[int] = Counter()
    for attempt in books.attempts:
        spent[attempt["job_id"]] += counted(attempt)
    bill = sum(entry["cost_microusd"] for entry in entries)
    if bill > spent.total():
        yield f"law 4: {bill} microusd are billed, and only {spent.total()} are settled, in doubt or reserved"
    if cap_microusd is not None:
        for job, amount in spent.items():
            if amount > cap_microusd:
                yield f"law 4: job {job} has spent or reserved {amount} microusd, over its cap of {cap_microusd}"
        if bill > cap_microusd * len(books.jobs):
            yield f"law 4: {bill} microusd are billed, over the cap of {cap_microusd} for each job"


def counted(attempt: Row) -> int:
    """What an attempt counts against its cap: its cost, else its doubt, else what is reserved while it is open."""
    if attempt["cost_microusd"] is not None:
        return int(attempt["cost_microusd"])
    open_microusd = attempt["reserved_microusd"] if attempt["outcome"] is None else 0
    return int(attempt["doubt_microusd"] or open_microusd)


@dataclass(slots=True)
class Reckoning:
    """How the ledger and the bill agree, attempt by attempt."""

    problems: list[str] = field(default_factory=list)
    adopted: int = 0
    lost_in_flight: int = 0
    """Images that were billed for a request that was in flight at a kill, and not kept."""
    spoilt: int = 0
    """Images that were billed and that the provider itself has spoilt or not delivered."""
    beyond: int = 0
    """Images that were billed, not kept, and are accounted for by no attempt on record as in doubt."""


def reckon(books: Books, entries: Sequence[Row], open_at_kills: set[int]) -> Reckoning:
    """Hold every attempt against the bill: by its request id where it heard one, else by what it asked for."""
    found = Reckoning()
    asked = books.asked()
    images = {asset["attempt_id"]: asset["sha256"] for asset in books.assets if asset["attempt_id"] is not None}
    by_id = {attempt["request_id"]: attempt for attempt in books.attempts if attempt["request_id"]}
    rest: dict[Asked, list[Row]] = defaultdict(list)
    on_bill = set()
    for entry in entries:
        attempt = by_id.get(entry["request_id"])
        if attempt is None:
            rest[asked_of(entry)].append(entry)
            continue
        on_bill.add(attempt["id"])
        found.problems += _of_one(entry, attempt, images.get(attempt["id"]), asked[attempt["task_id"]])
        # Paid, on record with its cost, and left behind by the kill on a host that the next run was not on.
        behind = attempt["outcome"] == "lost" and attempt["id"] in open_at_kills
        found.lost_in_flight += behind
        found.spoilt += attempt["outcome"] != "saved" and not behind
    for attempt in books.attempts:
        if attempt["cost_microusd"] is not None and attempt["id"] not in on_bill:
            found.problems.append(f"attempt {attempt['id']} has a cost, and the bill has no such request")

    unheard = [attempt for attempt in books.attempts if attempt["id"] not in on_bill and not attempt["request_id"]]
    for attempt in unheard:
        image = images.get(attempt["id"])
        if attempt["outcome"] == "saved":
            match = next((e for e in rest[asked[attempt["task_id"]]] if image in e["images"]), None)
            if match is None:
                found.problems.append(f"laws 2 and 5: the image of attempt {attempt['id']} was never served")
                continue
            rest[asked[attempt["task_id"]]].remove(match)
            if (attempt["doubt_microusd"] or 0) < match["cost_microusd"]:
                found.problems.append(f"law 4: adopted attempt {attempt['id']} has less in doubt than it was billed")
    doubtful = [a for a in unheard if a["outcome"] == "lost" and a["doubt_microusd"] is not None]
    died = Counter(asked[a["task_id"]] for a in doubtful if a["id"] in open_at_kills)
    room = Counter(asked[a["task_id"]] for a in doubtful)
    for what, left in rest.items():
        beyond = max(0, len(left) - room[what])
        in_flight = min(died[what], len(left) - beyond)
        found.beyond += beyond
        found.lost_in_flight += in_flight
        found.spoilt += len(left) - beyond - in_flight
        if beyond:
            found.problems.append(
                f"law 3: {len(left)} images were billed and not kept, and {room[what]} are in doubt, for {what}"
            )
    found.problems += _ends(books, open_at_kills)
    found.adopted = sum(a["outcome"] == "saved" for a in books.attempts if a["id"] in open_at_kills)
    return found


def _of_one(entry: Row, attempt: Row, image: str | None, asked: Asked) -> Iterator[str]:
    """An attempt and the entry of the bill with the same request id."""
    who = f"attempt {attempt['id']} ({attempt['outcome']})"
    if asked != asked_of(entry):
        yield f"{who} is billed for another prompt or size"
    if attempt["outcome"] == "saved" and image not in entry["images"]:
        yield f"law 5: the image of {who} is not the one that this request was served"
    billed = entry["cost_microusd"]
    cost, doubt = attempt["cost_microusd"], attempt["doubt_microusd"]
    if attempt["cost_basis"] == "usage":
        if cost != billed:
            yield f"law 6: {who} cost {cost} microusd, and is billed {billed}"
    elif max(cost or 0, doubt or 0) < billed:
        yield f"law 4: {who} is billed {billed} microusd, and on record with {cost} and {doubt} in doubt"


def _ends(books: Books, open_at_kills: set[int]) -> Iterator[str]:
    """Each attempt that a kill has cut is adopted or lost, and no other is called so."""
    for attempt in books.attempts:
        who = f"attempt {attempt['id']}"
        cut = attempt["id"] in open_at_kills
        if attempt["outcome"] is None:
            yield f"law 1: {who} never ended"
        elif (
            cut and attempt["outcome"] == "lost" and attempt["doubt_microusd"] is None and not attempt["cost_microusd"]
        ):
            yield f"law 3: {who} was cut by a kill, and is lost without a doubt on record"
        elif cut and attempt["outcome"] not in ("saved", "lost"):
            yield f"law 3: {who} was cut by a kill, and is on record as {attempt['outcome']}"
        elif not cut and attempt["error_code"] == "run_died":
            yield f"law 3: {who} is said to have died with its run, and was not open at any kill"


def placed(books: Books, files: Mapping[str, str]) -> dict[int, str]:
    """The SHA-256 of what has its name already, and is not on record as done, by the attempt that it is of."""
    under_way = books.open()
    return {
        attempt["id"]: attempt["received_sha256"]
        for attempt in books.attempts
        if attempt["id"] in under_way
        and attempt["received_path"] is not None
        and files.get(attempt["received_path"]) == attempt["received_sha256"]
    }


def taken_over(books: Books, entries: Sequence[Row], left: Mapping[int, str]) -> Iterator[str]:
    """Each image that was whole in reach of the next run when its run was killed is taken over, not asked for again."""
    good = {image for entry in entries if entry["delivered"] not in _UNUSABLE for image in entry["images"]}
    outcomes = {attempt["id"]: attempt["outcome"] for attempt in books.attempts}
    for attempt, digest in left.items():
        if digest in good and outcomes[attempt] != "saved":
            yield f"law 3: the image of attempt {attempt} was whole at a kill, and was not taken over"


def at_the_end(books: Books, entries: Sequence[Row], output: Files, *, complete: bool) -> Iterator[str]:
    """What holds of the files once every job has come to its end; `complete` when that end is all that was wanted."""
    served: dict[Asked, set[str]] = defaultdict(set)
    for entry in entries:
        served[asked_of(entry)].update(entry["images"])
    asked = books.asked()
    files = _found(output)
    expected = {}
    for asset in books.assets:
        expected[asset["path"]] = asset["sha256"]
        if asset["sha256"] not in served[asked[asset["task_id"]]]:
            yield f"law 5: {asset['path']} was never served for its prompt and size"
    if len(expected) != len(books.assets):
        yield "law 2: two images share one path"
    for path, digest in expected.items():
        if files.get(path) != digest:
            yield f"law 2: {path} is {'missing' if path not in files else 'changed'}"
    for path in files:
        parts = path.split("/")
        if parts[1:2] in ([".partial"], [".batches"]):
            yield f"a temporary file is left: {path}"
        if parts[1:2] in (["images"], ["superseded"]) and path not in expected:
            yield f"nobody knows the file {path}"
    for batch in books.batches:
        if batch["state"] not in ("collected", "dissolved"):
            yield f"batch {batch['id']} was left {batch['state']}"
    yield from _derived(books, files)
    for job in books.jobs:
        wanted = [task for task in books.tasks if task["job_id"] == job["id"] and task["wanted"]]
        if len(wanted) != job["wanted"]:
            yield f"{len(wanted)} tasks of {job['name']} are wanted, and its manifest has {job['wanted']}"
        for task in wanted:
            if complete and task["status"] != "done":
                yield f"task {task['id']} of {job['name']} is {task['status']}"
            if task["status"] in ("running", "submitted"):
                yield f"task {task['id']} of {job['name']} was left {task['status']}"


def _derived(books: Books, files: Mapping[str, str]) -> Iterator[str]:
    """Every image that starts from pictures is pasted back, and has what others of its job were cut to.

    Once, under its own name and from the bytes that it has.
    """
    assets = {asset["task_id"]: asset for asset in books.assets}
    made = {(rendition["task_id"], rendition["kind"]): rendition for rendition in books.renditions}
    jobs = {task["id"]: task["job_id"] for task in books.tasks}
    kinds: dict[int, set[str]] = {}
    for task_id, kind in made:
        if kind != "composite":
            kinds.setdefault(jobs[task_id], set()).add(kind)
    for task in books.tasks:
        if not task["wanted"] or task["status"] != "done":
            continue
        composites = {"composite"} if task["edit_row"] is not None else set[str]()
        for kind in sorted(kinds.get(task["job_id"], set()) | composites):
            one = made.get((task["id"], kind))
            if one is None:
                yield f"{task['name']} of {task['job']} has no {kind}"
            elif files.get(one["path"]) != one["sha256"]:
                yield f"the {kind} {one['path']} is not what is on record"
            elif one["asset_sha256"] != assets[task["id"]]["sha256"] or one["task_name"] != task["name"]:
                yield f"the {kind} {one['path']} is of another image"


def told(books: Books, summaries: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """What the runs have said of their money, against the ledger."""
    runs = {run["id"]: run for run in books.runs}
    for summary in summaries:
        run = runs.get(summary["run_id"])
        if run is None or run["ended_ms"] is None:
            yield f"run {summary['run_id']} gave a summary, and has no end on record"
            continue
        of_job = [attempt for attempt in books.attempts if attempt["job_id"] == run["job_id"]]
        doubt = sum(
            attempt["doubt_microusd"] or 0
            for attempt in of_job
            if attempt["ended_ms"] and run["started_ms"] <= attempt["ended_ms"] <= run["ended_ms"]
        )
        # What came in a batch was spent by the run that has collected it.
        settled = sum(
            attempt["cost_microusd"] or 0
            for attempt in of_job
            if run["id"] == (attempt["run_id"] if attempt["batch_row"] is None else attempt["collected_run"])
        )
        for what, said, true in (
            ("in_doubt_usd", summary["in_doubt_usd"], doubt),
            ("cost_usd", summary["cost_usd"], settled),
        ):
            if round(said * 1e6) != true:
                yield f"run {run['id']} said {what} {said}, and the ledger has {true} microusd"
        if run["id"] == max(other["id"] for other in books.runs if other["job_id"] == run["job_id"]):
            all_doubt = sum(attempt["doubt_microusd"] or 0 for attempt in of_job)
            said = summary["job_in_doubt_usd"]
            if round(said * 1e6) != all_doubt:
                yield f"run {run['id']} said job_in_doubt_usd {said}, and the ledger has {all_doubt} microusd"
