"""A job of very many tasks, and a ledger that says half of them are done, without a request for each.

Owns the shape of the big manifest and the fabrication. The tables belong to `runner.ledger`: of them nothing is known
here but names that everything hangs on, and a done task is a copy of one that was really made.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

VARIANTS = 100
_MATRIX = {
    "size": ["1024x1024", "1536x1024", "1024x1536", "1280x1024", "1024x1280"],
    "quality": ["low", "medium"],
    "background": ["auto", "opaque"],
}
_SAMPLES = 5
_HALF = 2


def write(folder: Path, tasks: int) -> Path:
    """A manifest of `tasks` tasks (a multiple of 100): a file of prompts, each in 100 variants; its path.

    The first variant, and so the first image of a run, is the one that the benchmark's server sends.
    """
    prompts = (f"A lighthouse at dusk, number {number:06d}\n" for number in range(tasks // VARIANTS))
    (folder / "prompts.txt").write_text("".join(prompts))
    limits = {"images_per_minute": 10**6, "requests_per_minute": 10**6, "tokens_per_minute": 10**9, "concurrency": 1}
    manifest = {
        "name": "bench",
        "model": "gpt-image-2",
        "prompts": [{"file": "prompts.txt"}],
        "matrix": _MATRIX,
        "samples": _SAMPLES,
        "limits": limits,
    }
    path = folder / "bench.yaml"
    path.write_text(json.dumps(manifest))  # JSON is YAML
    return path


def finish_half(ledger: Path) -> int:
    """Make the first half of the tasks done, as copies of the one that a run has made; how many are done then.

    Raises:
        ValueError: no task is done, so there is nothing to copy.
    """
    with closing(sqlite3.connect(ledger)) as connection, connection:
        made = connection.execute(
            "SELECT t.id, a.id, a.attempt_id, a.path, t.name FROM tasks t JOIN assets a ON a.task_id = t.id"
        ).fetchone()
        if made is None:
            raise ValueError(f"{ledger} has no task that is done")
        task, asset, attempt, path, name = made
        before = path.removesuffix(name)
        half = "t.id <> :task AND t.position < (SELECT wanted FROM jobs) / :half"
        given = {"task": task, "attempt": attempt, "asset": asset, "half": _HALF, "before": before}
        copied = _columns(connection, "attempts", but=("id", "task_id"))
        connection.execute(
            f"INSERT INTO attempts (task_id, {', '.join(copied)}) "
            f"SELECT t.id, {', '.join(f'a.{name}' for name in copied)} FROM tasks t, attempts a "
            f"WHERE a.id = :attempt AND {half} ORDER BY t.id",
            given,
        )
        copied = _columns(connection, "assets", but=("id", "task_id", "attempt_id", "path"))
        connection.execute(
            f"INSERT INTO assets (task_id, attempt_id, path, {', '.join(copied)}) "
            f"SELECT t.id, b.id, :before || t.name, {', '.join(f'a.{name}' for name in copied)} "
            "FROM tasks t JOIN attempts b ON b.task_id = t.id, assets a "
            f"WHERE a.id = :asset AND {half} ORDER BY t.id",
            given,
        )
        connection.execute(f"UPDATE tasks AS t SET status = 'done' WHERE {half}", given)
        return int(connection.execute("SELECT count(*) FROM tasks WHERE status = 'done'").fetchone()[0])


def _columns(connection: sqlite3.Connection, table: str, *, but: tuple[str, ...]) -> list[str]:
    return [row[1] for row in connection.execute(f"PRAGMA table_info({table})") if row[1] not in but]
