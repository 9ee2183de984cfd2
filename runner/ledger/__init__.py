"""The sole owner of the database: tables, migrations, queries.

Owns what is on record: jobs, runs, tasks, what they start from, attempts, assets, renditions. Refuses to know files,
requests and prices; rows never leave the package, and every figure in it is written by the operations in `attempts`,
`enrol` and `edits`.
"""

from runner.ledger.database import locate
from runner.ledger.ledger import Ledger
from runner.ledger.scratch import Scratch, Sieve
from runner.ledger.types import (
    Answer,
    Begin,
    By,
    Contradiction,
    Cost,
    File,
    Job,
    Misplaced,
    Orphan,
    Paid,
    Recorded,
    Rendition,
    Reusable,
    RunStart,
    Seen,
    Spending,
    Todo,
    Wanting,
)
from runner.ledger.writer import Steps, Writer

__all__ = [
    "Answer",
    "Begin",
    "By",
    "Contradiction",
    "Cost",
    "File",
    "Job",
    "Ledger",
    "Misplaced",
    "Orphan",
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
    "Wanting",
    "Writer",
    "locate",
]
