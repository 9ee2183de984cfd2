"""What is derived from assets while the run goes on: composites, thumbnails, and the renditions of the manifest.

Owns which are made when: whatever is done and lacks its own, in the order in which assets came, those of earlier runs
first. Refuses to know how pixels are made (`renditions`), and to keep a request waiting: worker processes do the work.
One that cannot be made is told, and leaves the image as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
import anyio.abc
import anyio.to_thread
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from runner.engine.events import Composed, Listener, Rendered, Warned
from runner.engine.hands import Hands, OpenHands, Put, local_hands
from runner.engine.tally import Tally
from runner.errors import RunnerError
from runner.ledger import COMPOSITE, THUMBNAIL, Job, Lacking, Ledger, Rendition, Wanting
from runner.renditions import Recipe
from runner.store import Store

MOST_WORKERS = 4
"""Worker processes at most while requests are made; each has a picture or two in memory."""
MOST_TOLD = 5
"""Failures that are told one by one; all of them are counted."""
PAGE = 64
_WAITING = 4
"""Pictures that are made and not on disk yet, at most; a composite has many megabytes."""
GALLERY_THUMBNAIL = Recipe(THUMBNAIL, width=384, height=384, fit="inside", format="webp", quality=80)
"""What the gallery shows of an image until it is opened."""

Item = Wanting | Lacking


@dataclass(slots=True)
class _Search:
    """How items are found by assets, and up to which asset they were."""

    find: Callable[[int], Sequence[Item]]
    last: int = 0


@dataclass(frozen=True, slots=True)
class _Made:
    """What was made of one asset, by kinds."""

    item: Item
    files: Mapping[str, bytes | Put]


class Renderer:
    """Makes what is derived for one job; `base` is the manifest's folder, `recipes` are by kind."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        store: Store,
        job: Job,
        base: Path,
        recipes: Mapping[str, Recipe],
        composites: bool,
        emit: Listener,
        now_ms: Callable[[], int],
        most_workers: int = MOST_WORKERS,
        hands: OpenHands | None = None,
    ) -> None:
        """`hands` make the files: at most so many worker processes, unless something else is given."""
        self._ledger = ledger
        self._store = store
        self._job = job
        self._base = base.absolute()
        self._recipes = recipes
        self._digests = {kind: recipe.digest for kind, recipe in recipes.items()}
        self._makes_composites = composites
        self._emit = emit
        self._now_ms = now_ms
        self._hands = hands or partial(local_hands, store, most_workers)
        self._claimed: dict[str, tuple[int, str]] = {}
        self._naming = anyio.Lock()
        self._more = anyio.Event()
        self._ending = False
        self._told = 0
        self.composites = Tally()
        self.renditions = Tally()

    def saved(self) -> None:
        """Another image is done."""
        self._more.set()

    def end(self) -> None:
        """No further image comes: `run` returns when all of them have been looked at."""
        self._ending = True
        self._more.set()

    async def run(self) -> None:
        """Make what is lacking, and go on as images are done, until `end`.

        Raises:
            RunnerError: the ledger failed.
        """
        await anyio.to_thread.run_sync(self._forget_missing)
        async with self._hands() as hands, anyio.create_task_group() as group:
            to_make, items = anyio.create_memory_object_stream[Item](hands.count)
            to_keep, made = anyio.create_memory_object_stream[_Made](_WAITING)
            group.start_soon(self._keep_all, made)
            for _ in range(hands.count):
                group.start_soon(self._make_all, items.clone(), to_keep.clone(), hands)
            to_keep.close()
            items.close()
            async with to_make:
                await self._look(to_make)

    async def _look(self, to_make: MemoryObjectSendStream[Item]) -> None:
        """Find what is lacking, in passes over the assets that have come since the last."""
        searches = [_Search(self._lacking_after)]
        if self._makes_composites:
            searches.insert(0, _Search(self._composites_after))
        while True:
            self._more, ending = anyio.Event(), self._ending
            # Asked first: what comes while these are looked through is looked at the next time.
            newest = await anyio.to_thread.run_sync(self._ledger.renditions.newest_asset)
            for search in searches:
                while page := await anyio.to_thread.run_sync(search.find, search.last):
                    search.last = page[-1].asset_id
                    for item in page:
                        await to_make.send(item)
                search.last = max(search.last, newest)
            if ending:
                return
            await self._more.wait()

    def _composites_after(self, last: int) -> list[Wanting]:
        return self._ledger.renditions.composites_wanted(self._job, last, PAGE)

    def _lacking_after(self, last: int) -> list[Lacking]:
        return self._ledger.renditions.lacking(self._job, self._digests, last, PAGE)

    def _forget_missing(self) -> None:
        """What someone has removed, to have it again or by mistake, is wanted again."""
        for page in self._ledger.renditions.all(self._job):
            there = self._store.have([(path, length) for _, path, length in page])
            missing = [number for (number, _, _), found in zip(page, there, strict=True) if not found]
            if missing:
                self._ledger.renditions.forget(missing)

    async def _make_all(
        self, items: MemoryObjectReceiveStream[Item], to_keep: MemoryObjectSendStream[_Made], hands: Hands
    ) -> None:
        async with items, to_keep:
            async for item in items:
                try:
                    made = await self._make(item, hands)
                except RunnerError as error:
                    self._failed(item, error)
                else:
                    await to_keep.send(made)

    async def _make(self, item: Item, hands: Hands) -> _Made:
        if isinstance(item, Wanting):
            return _Made(item, {COMPOSITE: await hands.paste(self._base, item.recipe, item.path)})
        recipes = [self._recipes[kind] for kind in item.kinds]
        pieces = await hands.render(item.path, recipes, lambda: self._targets(item))
        return _Made(item, dict(zip(item.kinds, pieces, strict=True)))

    async def _targets(self, item: Lacking) -> list[str]:
        """Where the files of an item are to lie, for hands that put them there; nobody else gets these names."""
        async with self._naming:
            return await anyio.to_thread.run_sync(self._claim, item)

    def _claim(self, item: Lacking) -> list[str]:
        paths = self._paths([(item, kind) for kind in item.kinds])
        self._claimed.update({path: (item.task_id, kind) for path, kind in zip(paths, item.kinds, strict=True)})
        return paths

    async def _keep_all(self, made: MemoryObjectReceiveStream[_Made]) -> None:
        """Put what was made on disk and on record, as much at once as has come meanwhile."""
        async with made:
            async for first in made:
                some = [first]
                while len(some) < PAGE:
                    try:
                        some.append(made.receive_nowait())
                    except (anyio.WouldBlock, anyio.EndOfStream):
                        break
                try:
                    paths = await anyio.to_thread.run_sync(self._keep, some)
                except RunnerError as error:
                    for one in some:
                        self._failed(one.item, error)
                    continue
                for one in some:
                    self._kept(one, paths)

    def _keep(self, some: Sequence[_Made]) -> dict[tuple[int, str], str]:
        """The path of each, by task and kind."""
        files = [(one, kind, piece) for one in some for kind, piece in one.files.items()]
        whole = [(one, kind, piece) for one, kind, piece in files if isinstance(piece, bytes)]
        puts: dict[tuple[int, str], Put] = {}
        if whole:
            named = self._paths([(one.item, kind) for one, kind, _ in whole])
            self._store.derived.put_all([(path, data) for path, (_, _, data) in zip(named, whole, strict=True)])
            for path, (one, kind, data) in zip(named, whole, strict=True):
                puts[one.item.task_id, kind] = Put(path, hashlib.sha256(data).hexdigest(), len(data))
        puts |= {(one.item.task_id, kind): piece for one, kind, piece in files if isinstance(piece, Put)}
        self._ledger.renditions.made(
            [
                Rendition(
                    task_id=one.item.task_id,
                    kind=kind,
                    recipe=one.item.digest if isinstance(one.item, Wanting) else self._digests[kind],
                    asset_sha256=one.item.sha256,
                    task_name=one.item.name,
                    path=put.path,
                    sha256=put.sha256,
                    bytes=put.bytes,
                )
                for one, kind, _ in files
                for put in (puts[one.item.task_id, kind],)
            ],
            now_ms=self._now_ms(),
        )
        paths = {key: put.path for key, put in puts.items()}
        for path in paths.values():
            self._claimed.pop(path, None)
        self._release({old for one in some for old in _old_paths(one.item)} - set(paths.values()))
        return paths

    def _paths(self, wanted: Sequence[tuple[Item, str]]) -> list[str]:
        """Where these files go: named as their assets are, unless another image's file of that kind lies there."""
        plain = [self._path(kind, item.name) for item, kind in wanted]
        owners = self._ledger.renditions.owners(plain)
        paths: list[str] = []
        for path, (item, kind) in zip(plain, wanted, strict=True):
            own = (item.task_id, kind)
            is_free = owners.get(path, set()) <= {own} and path not in paths and self._claimed.get(path, own) == own
            paths.append(path if is_free else self._path(kind, f"{item.name}~{item.task_id}.png"))
        return paths

    def _path(self, kind: str, name: str) -> str:
        if kind == COMPOSITE:
            return self._store.derived.composite_path(name)
        if kind == THUMBNAIL:
            return self._store.derived.thumbnail_path(name)
        return self._store.derived.rendition_path(kind, name, self._recipes[kind].ending)

    def _release(self, old: set[str]) -> None:
        """Remove files that were replaced under another name, unless one of another image has come to lie there."""
        owners = self._ledger.renditions.owners(sorted(old))
        for path in sorted(old - owners.keys()):
            self._store.release(path)

    def _kept(self, one: _Made, paths: Mapping[tuple[int, str], str]) -> None:
        if isinstance(one.item, Wanting):
            self.composites.made += 1
            self._emit(Composed(one.item.name, paths[one.item.task_id, COMPOSITE]))
        else:
            self.renditions.made += len(one.files)
            self._emit(Rendered(one.item.name, list(one.files)))

    def _failed(self, item: Item, error: RunnerError) -> None:
        if isinstance(item, Wanting):
            self.composites.failed += 1
            what = "composite"
        else:
            self.renditions.failed += len(item.kinds)
            what = " and ".join(item.kinds)
        self._told += 1
        if self._told <= MOST_TOLD:
            self._emit(Warned(f"the {what} of {item.name} could not be made: {error}"))


def _old_paths(item: Item) -> list[str]:
    if isinstance(item, Wanting):
        return [] if item.old_path is None else [item.old_path]
    return list(item.old_paths.values())
