"""The sole owner of the database: tables, migrations, queries.

Owns what is on record: jobs, runs, tasks, what they start from, attempts, batches, assets, renditions, choices.
Refuses to know files, requests and prices; rows never leave the package, and every figure in it is written by the
operations in `attempts`, `batching`, `enrol`, `edits`, `renditions` and `reviews`.
"""

from runner.ledger.batches import Batches
from runner.ledger.caps import Caps
from runner.ledger.ledger import Ledger
from runner.ledger.nights import Day, Glimpse, Group, Night, Nights, Pace
from runner.ledger.places import Place, Server, locate
from runner.ledger.renditions import COMPOSITE, THUMBNAIL, Renditions
from runner.ledger.reviews import Reviews
from runner.ledger.scratch import Scratch, Sieve
from runner.ledger.types import (
    Answer,
    Batch,
    Begin,
    By,
    Cap,
    Committed,
    Contradiction,
    Cost,
    File,
    Hindrance,
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
from runner.ledger.writer import Change, Steps, Writer

__all__ = [
    "COMPOSITE",
    "THUMBNAIL",
    "Answer",
    "Batch",
    "Batches",
    "Begin",
    "By",
    "Cap",
    "Caps",
    "Change",
    "Choice",
    "Committed",
    "Contradiction",
    "Cost",
    "Day",
    "File",
    "Glimpse",
    "Group",
    "Hindrance",
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
    "Place",
    "Recorded",
    "Relative",
    "Rendition",
    "Renditions",
    "Reusable",
    "Reviews",
    "RunStart",
    "Scratch",
    "Seen",
    "Server",
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
