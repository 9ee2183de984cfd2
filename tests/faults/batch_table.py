"""What each fault of the Batch API comes to, as data: of a line, of a whole batch, of a call.

Owns the faults that a batch can meet and the class of each. What a class means for a task and its money is said by
`table.EXPECTED`, and for what only a batch knows by `EXPIRED`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tests.faults.table import SIMULATED, Expected, Fault, Kind

_ONLINE_ALONE = ("gzip", "hang", "stall", "cut", "reset", "reset_body")
"""What the simulator does to the wire of one answer, and so to no line."""

EXPIRED = Expected("planned", (), ("backoff", "saved"), 4)
"""Not billed, planned again, however often: the attempts of one that never comes to its turn are as many as batches."""


def _in_a_line(fault: Fault) -> Fault:
    """What is otherwise in a line than online: a 429 asks nobody to wait, and is an attempt like any other."""
    if fault.name == "truncated_json":
        return replace(fault, http_status=None)
    if fault.name in ("empty", "not_json"):
        return replace(fault, code="no_data")
    return replace(fault, kind=Kind.RETRYABLE) if fault.kind is Kind.LIMITED else fault


ANSWERS = [_in_a_line(fault) for fault in SIMULATED if fault.name.partition("=")[0] not in _ONLINE_ALONE]
"""An answer in a line, as it would come online."""

LINES = [
    Fault("moderation=output", Kind.REFUSED, "moderation_blocked", 400),
    Fault("double_line", Kind.DONE),
    Fault("broken_line", Kind.LOST, "truncated_json", None),
    Fault("missing_line", Kind.LOST, "no_answer", None),
    Fault("missing_line=unbilled", Kind.LOST, "no_answer", None),
]
"""What only a line of a file can meet. Nobody can tell a missing line that was billed from one that was not."""


@dataclass(frozen=True, slots=True)
class Calls:
    """Faults of calls, one after the other, in one job of `tasks` images, so many of them in each batch.

    `also` are rules that lead to such a call at all. However they fall, every image comes home, and every batch is
    created once.
    """

    call: str
    faults: tuple[str, ...]
    also: tuple[str, ...] = ()
    tasks: int = 2
    in_each: int = 1

    @property
    def rules(self) -> list[str]:
        """As the simulator takes them: each strikes once, in this order."""
        return [*self.also, *(f"{self.call}_{_once(fault)}" for fault in self.faults)]


def _once(fault: str) -> str:
    kind, _, value = fault.partition("=")
    return f"{kind}:times=1,value={value}" if value else f"{kind}:times=1"


ENDS = ("429", "500", "reset", "hang")
ACTS = (*ENDS, "500=before", "reset=before", "hang=before")
_NOT_CREATED = ("create_reset:times=1,value=before",)
CALLS = [
    Calls("upload", ACTS),
    Calls("create", ACTS, tasks=6),
    Calls("retrieve", ENDS),
    Calls("batches", ENDS, also=("create_reset:times=1",)),
    Calls("batches", ("late=0.05",), also=("create_reset:times=1",)),
    *(Calls("delete", (end,), also=_NOT_CREATED) for end in ACTS),
    *(Calls("files", (end,), also=_NOT_CREATED) for end in ENDS),
    Calls("content", (*ENDS, "cut=0.3", "cut=0.9")),
    Calls("content", ("cut=0.6", "whole", "cut=0.5", "whole"), tasks=12, in_each=6),
]
"""`file` (what is said of one file) is a call that the runner never makes; `content_gone` and `cancel` have tests of
their own, since a run ends with them, or needs a batch that is late."""
