"""The sole owner of the database: tables, migrations, queries.

Owns what is on record: jobs, runs, tasks, what they start from, attempts, batches, assets, renditions. Refuses to know
files, requests and prices; rows never leave the package, and every figure in it is written by the operations in
`attempts`, `batching`, `enrol` and `edits`.
"""

from runner.ledger.batches import Batches
from runner.ledger.database import locate
from runner.ledger.ledger import Ledger
from runner.ledger.scratch import Scratch, Sieve
from runner.ledger.types import (
    Answer,
    Batch,
    Begin,
    By,
    Contradiction,
    Cost,
    File,
    Job,
    Member,
    Misplaced,
    NewBatch,
    Orphan,
    Outcome,
    Paid,
    Recorded,
    Rendition,
    Reusable,
    RunStart,
    Seen,
    Spending,
    Todo,
    Told,
    Wanting,
)
from runner.ledger.writer import Steps, Writer

__all__ = [
    "Answer",
    "Batch",
    "Batches",
    "Begin",
    "By",
    "Contradiction",
    "Cost",
    "File",
    "Job",
    "Ledger",
    "Member",
    "Misplaced",
    "NewBatch",
    "Orphan",
    "Outcome",
    "Paid",
    "Recorded",
    "Rendition",
    "Reusable",
    "RunStart",
    "Scratch",
    "Seen",
    "Sieve",
    "Spending",
    "Steps",
    "Todo",
    "Told",
    "Wanting",
    "Writer",
    "locate",
]
