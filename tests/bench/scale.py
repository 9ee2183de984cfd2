"""What so many images a day take: requests, limits, bandwidth, storage, ledger rows, money. For docs/scale.md.

    python -m tests.bench.scale --images 10000000
    python -m tests.bench.scale --measure           bytes of a ledger for each image, on SQLite and on PostgreSQL

Owns the arithmetic. Prices and limits come from the catalog, what a picture weighs from the command line, and what the
ledger weighs from `--measure`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

from runner import catalog as catalogs
from runner.ledger import Begin, Cost, Ledger, Place, Server, attempts
from runner.rules.concurrency import MOST
from runner.tasks import Task
from tests.edges.ledger_support import ANSWER, COST, NOW_MS, begin_run, enrolled, make_file, make_task, write
from tests.servers import postgres

DAY_S = 86_400
MODEL = "gpt-image-2"
PROMPT_TOKENS = 50
"""Text that goes with each request; a guess, and a small part of the price."""
PROMPT = "A photograph of item {} on a plain table by a window, soft light from the left, shallow depth of field, 50 mm"
USAGE = (
    '{"total_tokens": 246, "input_tokens": 50, "output_tokens": 196, '
    '"input_tokens_details": {"text_tokens": 50, "image_tokens": 0, "cached_tokens": 0}}'
)


def ledger_bytes(images: int) -> Iterator[tuple[str, float]]:
    """The bytes of a ledger for each image that was asked for once and kept, on either kind of database."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "ledger.sqlite3")
        _fill(file, images)
        yield "SQLite", file.stat().st_size / images
    if postgres.programs() is None:
        return
    with postgres.cluster() as server:
        url = server.database()
        _fill(Server(url), images)
        name = url.rpartition("/")[2]
        server.run("VACUUM FULL", name)
        tables = "SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
        ((size,),) = server.run(f"{tables} WHERE nspname = 'public' AND relkind = 'r'", name)
        yield "PostgreSQL", int(str(size)) / images


def _fill(place: Place, images: int) -> None:
    with Ledger.open(place, create=True) as ledger:
        job = enrolled(ledger, _tasks(images))
        run_id = begin_run(ledger, job)
        position = -1
        while page := ledger.todo(job, position, 500):
            position = page[-1].position
            with write(ledger) as connection:
                for todo in page:
                    what = Begin(todo.task_id, run_id, job.id, MODEL, False, 15_000, "2026-11-22", NOW_MS)
                    attempt = attempts.begin(connection, what)
                    assert isinstance(attempt, int)
                    file = make_file(f"job/images/{todo.name}", seed=todo.task_id)
                    cost = Cost(COST.microusd, "usage", COST.usage, USAGE)
                    attempts.received(connection, attempt, answer=ANSWER, cost=cost, file=file)
                    attempts.saved(
                        connection,
                        attempt,
                        task_id=todo.task_id,
                        file=file,
                        model=MODEL,
                        simulated=False,
                        now_ms=NOW_MS,
                    )


def _tasks(images: int) -> Iterator[Task]:
    return (make_task(PROMPT.format(n), prompt_id=f"item-{n:08d}", model=MODEL) for n in range(images))


def table(images: int, *, image_mb: float, row_bytes: float, per_process_s: float) -> Iterator[str]:
    """What so many images a day take, as rows of Markdown."""
    catalog = catalogs.load()
    model, tier, limit = catalog.model(MODEL), *max(catalog.tiers.items())
    per_s = images / DAY_S
    per_minute = per_s * 60
    keys = per_minute / limit.images_per_minute
    organisations = -(-per_minute // limit.images_per_minute)
    yield "| of | figure | from |"
    yield "| --- | --- | --- |"
    yield f"| requests | {per_s:,.1f} a second, {per_minute:,.0f} a minute | {images:,} / 86,400 s |"
    yield (
        f"| limits | {keys:,.1f} times tier {tier}: {organisations:,.0f} organisations, or a "
        f"limit that was agreed on | {limit.images_per_minute} images a minute |"
    )
    in_flight = per_s * 18, per_s * 46
    yield f"| in flight | {in_flight[0]:,.0f} to {in_flight[1]:,.0f} | latency 18 s (median) to 46 s (95 %) |"
    yield (
        f"| processes | {per_s / per_process_s:,.1f} by bytes, {in_flight[1] / MOST:,.1f} by requests in flight | "
        f"{per_process_s:g} images a second each, see above; {MOST:,} in flight each |"
    )
    yield f"| received | {per_s * image_mb * 4 / 3 * 8 / 1000:,.2f} Gbit/s | {image_mb:g} MB an image, base64 |"
    yield f"| stored | {per_s * image_mb * 8 / 1000:,.2f} Gbit/s, {images * image_mb / 1e6:,.1f} TB a day | the same |"
    yield f"| puts | {per_s:,.0f} a second | one for each image |"
    yield (
        f"| ledger | {images * 4 / 1e6:,.0f} million rows, {images * row_bytes / 1e9:,.1f} GB a day | "
        f"task, its prompt, attempt, asset; {row_bytes:,.0f} bytes an image |"
    )
    for quality in model.qualities:
        told = []
        for delivery in ("online", "batch"):
            if catalog.has_price("openai", MODEL, delivery):
                prices = catalog.prices_for("openai", MODEL, delivery)
                tokens = model.output_tokens[quality]["1024x1024"]
                each = (tokens * float(prices.image_out) + PROMPT_TOKENS * float(prices.text_in)) / 1e6
                told.append(f"${each * images:,.0f} {delivery}")
        yield f"| money a day, {quality} | {', '.join(told)} | 1024x1024, {tokens:,} tokens out, {PROMPT_TOKENS} in |"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000_000, help="a day")
    parser.add_argument("--image-mb", type=float, default=1.5, help="what an image weighs")
    parser.add_argument("--row-bytes", type=float, default=1762.0, help="what the ledger takes for it")
    parser.add_argument(
        "--per-process", type=float, default=40.0, help="images a second that one process keeps up with"
    )
    parser.add_argument("--measure", type=int, nargs="?", const=20_000, help="measure the ledger with so many images")
    given = parser.parse_args()
    if given.measure:
        for kind, size in ledger_bytes(given.measure):
            print(f"{kind}: {size:,.0f} bytes an image, of {given.measure:,}")
        return
    for line in table(
        given.images, image_mb=given.image_mb, row_bytes=given.row_bytes, per_process_s=given.per_process
    ):
        print(line)


if __name__ == "__main__":
    main()
