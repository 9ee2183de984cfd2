"""The steps of a run at which it can be killed: one list, for the tests of single steps and for the campaign.

Owns their names, their places in the code, and what a death there costs. To add a step, add a line.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

LEDGER = "runner.ledger.ledger:Ledger."
WRITER = "runner.ledger.writer:Writer."
CHANGE = "runner.ledger.attempts:"
ENROLMENT = "runner.ledger.enrol:Enrolment."
STORE = "runner.store.folder:FolderStore."
BUCKET = "runner.store.bucket:BucketStore."
PARTIAL = "runner.store.partial:FilePartial."
CLIENT = "runner.provider.client:Client."
ATTEMPT = "runner.engine.attempt:Attempt."
BATCHES = "runner.ledger.batches:Batches."
BATCH_API = "runner.provider.batches:Batches."
REQUEST = "aiohttp.client_reqrep:ClientRequest."
MIGRATE = "runner.ledger.sqlite:_migrate"
MIGRATE_SERVER = "runner.ledger.postgres:ServerDatabase._migrate"
RECOVERY = "runner.engine.recovery:"
COMMIT = "sqlalchemy.engine.default:DefaultDialect.do_commit"


@dataclass(frozen=True, slots=True)
class Step:
    """One instant of an image's way, and what it costs to die there while it is the only image under way.

    Attributes:
        name: what has (or has not) just happened, in a person's words.
        place: the function or method, as `module:Class.method`.
        when: `before` it is entered, or `after` it has returned.
        more: requests that are repeated.
        adopted: images that are taken over from the dead run.
        in_doubt: attempts whose cost stays in doubt.
        pause_s: how long the process stands still before it dies.
    """

    name: str
    place: str
    when: str
    more: int = 0
    adopted: int = 0
    in_doubt: int = 0
    pause_s: float = 0.0

    def kill(self, nth: int) -> dict[str, Any]:
        """The order to die at the `nth` call."""
        return {"place": self.place, "when": self.when, "nth": nth, "pause_s": self.pause_s}


IMAGE = [
    Step("attempt not on record", f"{WRITER}begin", "before"),
    Step("attempt recorded, not committed", f"{CHANGE}begin", "after"),
    # On record, not yet sent: nobody can tell.
    Step("attempt committed", f"{WRITER}begin", "after", in_doubt=1),
    Step("request not begun", f"{CLIENT}generate", "before", in_doubt=1),
    Step("request not sent", f"{REQUEST}write_bytes", "before", in_doubt=1),
    # The peer has it, and bills it: the image that comes of it has nobody to go to.
    Step("request sent", f"{REQUEST}write_bytes", "after", more=1, in_doubt=1, pause_s=0.1),
    Step("headers received", f"{ATTEMPT}_heed", "before", more=1, in_doubt=1),
    Step("headers heeded", f"{ATTEMPT}_heed", "after", more=1, in_doubt=1),
    Step("piece of the body received", f"{PARTIAL}write", "before", more=1, in_doubt=1),
    Step("half the body written", f"{PARTIAL}write", "after", more=1, in_doubt=1),
    # Whole on disk, its usage lost with the process.
    Step("temporary file written", f"{CLIENT}generate", "after", adopted=1, in_doubt=1),
    Step("temporary file not flushed", f"{PARTIAL}seal", "before", adopted=1, in_doubt=1),
    Step("temporary file flushed", f"{PARTIAL}seal", "after", adopted=1, in_doubt=1),
    Step("cost not on record", f"{WRITER}received", "before", adopted=1, in_doubt=1),
    Step("cost recorded, not committed", f"{CHANGE}received", "after", adopted=1, in_doubt=1),
    Step("cost committed, not renamed", f"{STORE}place", "before", adopted=1),
    Step("renamed", f"{STORE}place", "after", adopted=1),
    Step("done not on record", f"{WRITER}saved", "before", adopted=1),
    Step("done recorded, not committed", f"{CHANGE}saved", "after", adopted=1),
    Step("ledger committed", f"{WRITER}through", "after"),
]
"""Every step of an image's way, in order."""

FRAME = [
    Step("tasks enrolled", f"{LEDGER}enrol", "after"),
    Step("some tasks on record", f"{ENROLMENT}add", "after"),
    Step("revision not active", f"{ENROLMENT}activate", "before"),
    Step("revision active", f"{ENROLMENT}activate", "after"),
    Step("names compared", f"{LEDGER}tidied", "before"),
    Step("ledger not made", MIGRATE, "before"),
    Step("ledger made", MIGRATE, "after"),
    Step("run not on record", f"{LEDGER}begin_run", "before"),
    Step("run on record", f"{LEDGER}begin_run", "after"),
    Step("end of the run not on record", f"{LEDGER}end_run", "before"),
    Step("end of the run on record", f"{LEDGER}end_run", "after"),
]
"""Before and after all images: nothing is in flight, so nothing is lost."""

FAILURE = [
    Step(name, f"{WRITER}{method}", when)
    for method in ("lost", "unsaved")
    for name, when in ((f"{method} not on record", "before"), (f"{method} on record", "after"))
]
"""Around the record of a request that brought no image; what it costs depends on the failure."""

CLEARING = [
    Step(f"{name}, {when}", place, when)
    for name, place in (
        ("recover", f"{RECOVERY}recover"),
        ("adopt", f"{LEDGER}adopt"),
        ("found", f"{LEDGER}found"),
        ("lose", f"{LEDGER}lose"),
        ("retry", f"{LEDGER}retry"),
        ("examine", f"{STORE}examine_partial"),
        ("place", f"{STORE}place"),
        ("sweep", f"{STORE}sweep"),
    )
    for when in ("before", "after")
]
"""What a run does first after a dead one."""

NAMING = [
    Step(f"{name}, {when}", place, when)
    for name, place in (
        ("reuse", f"{LEDGER}reuse"),
        ("link", f"{STORE}link"),
        ("move", f"{STORE}move"),
        ("moved", f"{LEDGER}asset_moved"),
        ("keep aside", f"{STORE}keep_aside"),
        ("release", f"{STORE}release"),
    )
    for when in ("before", "after")
]
"""What a run does before its first request when others have its images, or its manifest gives new names."""

PICTURES = [
    Step(f"{name}, {when}", place, when)
    for name, place in (
        ("inputs found", "runner.inputs.inputs:Inputs.fetch"),
        ("derived kept", "runner.engine.renditions:Renderer._keep"),
        ("derived put", "runner.store.derived:FolderDerived.put_all"),
        ("derived on record", "runner.ledger.renditions:Renditions.made"),
    )
    for when in ("before", "after")
]
"""What is done for an image that starts from pictures, and for one that is cut to size, beside what is done for any."""

BATCH = [
    Step(f"{name}, {when}", place, when)
    for name, place in (
        ("batch begun", f"{BATCHES}prepare"),
        ("requests on record", f"{BATCHES}add"),
        ("requests recorded, not committed", "runner.ledger.batching:add"),
        ("file flushed", "runner.store.batchfiles:Lines.seal"),
        ("batch sealed", f"{BATCHES}sealed"),
        ("file uploaded", f"{BATCH_API}upload"),
        ("file's id on record", f"{BATCHES}uploaded"),
        ("creation announced", f"{BATCHES}creating"),
        ("batch created", f"{BATCH_API}create"),
        ("batch's id on record", f"{BATCHES}submitted"),
        ("file removed", "runner.store.batchfiles:BatchFiles.drop"),
        ("batch looked at", f"{BATCH_API}retrieve"),
        ("what was told on record", f"{BATCHES}told"),
    )
    for when in ("before", "after")
]
"""The way of a batch to the provider, and the first look at it."""

HOMEWARD = [
    Step(f"{name}, {when}", place, when)
    for name, place in (
        ("line's file opened", f"{STORE}line"),
        ("piece of a line written", f"{PARTIAL}write"),
        ("line's file flushed", f"{PARTIAL}seal"),
        ("line's image named", f"{STORE}place_line"),
        ("line's image recorded, not committed", "runner.ledger.batching:saved"),
        ("line's image on record", f"{WRITER}through"),
        ("how far noted", f"{BATCHES}read_so_far"),
        ("batch collected", f"{BATCHES}collected"),
    )
    for when in ("before", "after")
]
"""The way of a batch's images home."""

SYSTEM = [
    Step(f"{name}, {when}", place, when)
    for name, place in (
        ("any commit", COMMIT),
        ("any group of changes", "runner.ledger.writer:_Lane._transact"),
        ("any fsync", "os:fsync"),
        ("any write", "os:write"),
        ("any rename", "os:rename"),
        ("any link", "os:link"),
        ("any unlink", "os:unlink"),
    )
    for when in ("before", "after")
]
"""What the steps above come to below them, wherever it happens."""

INSIDE = [
    Step(f"{name}, inside", place, "during")
    for name, place in (
        ("any commit", COMMIT),
        ("any fsync", "os:fsync"),
        ("enrol", f"{LEDGER}enrol"),
        ("migrate", MIGRATE),
        ("recover", f"{RECOVERY}recover"),
        ("reuse", f"{RECOVERY}reuse"),
        ("tidy", f"{RECOVERY}tidy"),
    )
]
"""What takes long enough to be killed in the middle of, some milliseconds in."""

UPLOAD = [
    Step(f"{name}, {when}", place, when)
    for name, place in (
        ("image on its way to the bucket", f"{BUCKET}place"),
        ("cost on record, image in the spool", f"{WRITER}received"),
        ("image in the bucket, not on record", f"{WRITER}saved"),
    )
    for when in ("before", "after")
]
"""The way of an image from the spool into a bucket."""

REQUEST_TO_STORE = [
    Step(f"any {name}, {when}", f"runner.store.s3:S3Objects.{method}", when)
    for name, method in (("request to the store", "_once"), ("put", "put"), ("copy", "copy"), ("removal", "delete"))
    for when in ("before", "during", "after")
]
"""Whatever is asked of an object store: not sent, on its way, answered."""

EXCHANGE = [
    Step(f"any exchange with the database, {when}", "psycopg.connection:Connection.wait", when)
    for when in ("before", "during", "after")
]
"""Whatever is asked of a database server: not sent, on its way, answered."""


def on(step: Step, *, server: bool, bucket: bool) -> Step:
    """The same step where the ledger is on a server, or files are in a bucket."""
    if bucket and step.place.startswith(STORE):
        return replace(step, place=BUCKET + step.place.removeprefix(STORE))
    if server and step.place == MIGRATE:
        return replace(step, place=MIGRATE_SERVER)
    return step
