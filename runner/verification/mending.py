"""What becomes of images that are missing.

Owns the repair: what can be put back costs nothing and is put back; only what is lost for good is planned again, and
only after a person (or `--yes`) has agreed to the price. A file that differs from its record is never touched. The
caller holds the job's locks.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from runner import invocation
from runner.errors import RunnerError, StoreError
from runner.invocation import Options
from runner.ledger import Job, Ledger, Recorded
from runner.planner import CHUNK, chunks
from runner.rules.quoting import Quoter
from runner.store import Inventory, inventory_at, store_at
from runner.verification.findings import Ask, Notes, Question
from runner.verification.looking import look_at, unrecorded

BATCH = 5000
"""How many missing assets are looked for at a time."""
GIVEN_UP = 100
"""How many are given up in one transaction: other jobs' runs wait for it."""


def mend(
    ledger: Ledger, job: Job, options: Options, inventory: Inventory, missing: array[int], notes: Notes, ask: Ask
) -> None:
    """Put back what lies elsewhere; plan again what does not, if `ask` says yes to its price."""
    _Mending(ledger, job, options, inventory, notes).mend(missing, ask)


class _Mending:
    """The repair of one job."""

    def __init__(self, ledger: Ledger, job: Job, options: Options, inventory: Inventory, notes: Notes) -> None:
        self._ledger = ledger
        self._job = job
        self._options = options
        self._inventory = inventory
        self._store = store_at(options.output_for(job), job.name)
        self._notes = notes

    def mend(self, missing: array[int], ask: Ask) -> None:
        """Mend what can be mended of these assets."""
        lost: array[int] = array("q")
        unwanted: array[int] = array("q")
        for start in range(0, len(missing), BATCH):
            for item in self._put_back(self._items(missing[start : start + BATCH])):
                (lost if item.wanted else unwanted).append(item.asset_id)
        self._give_up(unwanted, "recorded", "the job no longer wants it")
        if lost:
            if ask(self._price(lost)):
                self._give_up(lost, "planned", "planned again")
            else:
                self._notes.verdict.declined += len(lost)

    def _items(self, asset_ids: Iterable[int]) -> Iterator[Recorded]:
        for chunk in chunks(asset_ids, CHUNK):
            yield from self._ledger.assets_of(chunk)

    def _put_back(self, items: Iterator[Recorded]) -> list[Recorded]:
        """Put back what lies elsewhere; what does not."""
        needs: dict[str, list[Recorded]] = {}
        for item in items:
            needs.setdefault(item.file.sha256, []).append(item)
        sizes = {item.file.bytes for same in needs.values() for item in same}
        candidates = (entry for entry in self._inventory.walk_all() if entry.kind == "file" and entry.bytes in sizes)
        for entries in chunks(candidates, CHUNK):
            for entry in unrecorded(self._ledger, self._job, entries):
                digest = self._inventory.digest(entry.path)
                if digest in needs:
                    self._restore(entry.path, needs.pop(digest), is_asset=False)
        for digests in chunks(list(needs), CHUNK):
            with self._ledger.same_bytes(digests) as others:
                for other in others:
                    file = other.file
                    if file.sha256 not in needs:
                        continue
                    theirs = inventory_at(self._store.output, other.job)
                    if look_at(theirs, other).verdict == "good":
                        self._restore(file.path, needs.pop(file.sha256), is_asset=True)
        return [item for same in needs.values() for item in same]

    def _restore(self, source: str, items: list[Recorded], *, is_asset: bool) -> None:
        """Let these bytes lie where each of `items` is recorded; a file that is no asset's own is moved there."""
        for item in items:
            action, detail = "put_back", f"from {source}"
            path = item.file.path
            try:
                self._inventory.flush(source)
                if is_asset:
                    self._store.link(source, path)
                else:
                    self._store.move(source, path)
                source, is_asset = path, True
            except StoreError as error:
                action, detail = "failed", f"its bytes lie at {source}: {error}"
            self._notes.repaired(item, action, detail)

    def _price(self, lost: array[int]) -> Question:
        """What it costs to make these images: at today's prices, or, where those cannot be told, what they cost."""
        question = Question(self._job.name, len(lost), 0, 0, simulated=False, at_catalog_prices=True)
        try:
            quoter = self._quoter()
        except RunnerError:
            quoter = None
        for chunk in chunks(lost, CHUNK):
            for paid in self._ledger.paid(chunk):
                expected, worst = paid.cost_microusd or paid.reserved_microusd or 0, paid.reserved_microusd or 0
                quoted = False
                if quoter is not None:
                    try:
                        quote = quoter.quote(paid.request)
                        expected, worst, quoted = quote.expected_microusd, quote.worst_microusd, True
                    except RunnerError:
                        pass  # the manifest has been edited since, and the catalog does not know that model
                question = replace(
                    question,
                    expected_microusd=question.expected_microusd + expected,
                    worst_microusd=question.worst_microusd + max(expected, worst),
                    simulated=paid.simulated,
                    at_catalog_prices=question.at_catalog_prices and quoted,
                )
        return question

    def _quoter(self) -> Quoter:
        """Prices at the provider that the job was last run with."""
        last = self._ledger.last_run(self._job)
        provider = self._options.provider or (last["provider"] if last is not None else None)
        manifest: str | Path = self._job.manifest_path or self._job.name
        request = invocation.prepare(manifest, replace(self._options, provider=provider), self._ledger)
        seen = invocation.calibrations(request, self._ledger)
        return invocation.quoter_for(request, request.delivery, seen)

    def _give_up(self, asset_ids: array[int], action: str, detail: str) -> None:
        for chunk in chunks(asset_ids, GIVEN_UP):
            # What was brought back while the question stood is not paid for again.
            items = [item for item in self._ledger.assets_of(chunk) if not self._inventory.is_there(item.file.path)]
            self._ledger.gone(items)
            for item in items:
                self._notes.repaired(item, action, detail)
