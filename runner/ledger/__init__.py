"""The sole owner of the database: tables, migrations, queries.

Owns what is on record: jobs, runs, tasks, what they start from, attempts, batches, assets, renditions, choices.
Refuses to know files, requests and prices; rows never leave the package, and every figure in it is written by the
operations in `attempts`, `batching`, `enrol`, `edits`, `renditions` and `reviews`.
"""

from runner.ledger.batches import Batches
from runner.ledger.database import locate
from runner.ledger.ledger import Ledger
from runner.ledger.nights import Day, Glimpse, Group, Night, Nights, Pace
from runner.ledger.renditions import COMPOSITE, THUMBNAIL, Renditions
from runner.ledger.reviews import Reviews
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
    Lacking,
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
from runner.ledger.views import Choice, NewChoice, Relative, Tile, Verdict
from runner.ledger.writer import Steps, Writer

__all__ = [
    "COMPOSITE",
    "THUMBNAIL",
    "Answer",
    "Batch",
    "Batches",
    "Begin",
    "By",
    "Choice",
    "Contradiction",
    "Cost",
    "Day",
    "File",
    "Glimpse",
    "Group",
    "Job",
    "Lacking",
    "Ledger",
    "Member",
    "Misplaced",
    "NewBatch",
    "NewChoice",
    "Night",
    "Nights",
    "Orphan",
    "Outcome",
    "Pace",
    "Paid",
    "Recorded",
    "Relative",
    "Rendition",
    "Renditions",
    "Reusable",
    "Reviews",
    "RunStart",
    "Scratch",
    "Seen",
    "Sieve",
    "Spending",
    "Steps",
    "Tile",
    "Todo",
    "Told",
    "Verdict",
    "Wanting",
    "Writer",
    "locate",
]
