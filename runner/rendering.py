"""What is derived from images, by itself or beside a run: renditions, composites, thumbnails, the gallery's page.

Owns which of them a job is to have, and that the page is written anew. Refuses to send anything: all of it is free,
and is made offline.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from runner import catalog as catalogs
from runner import invocation
from runner import manifest as manifests
from runner.cluster import cluster_for
from runner.engine import events
from runner.engine.events import Listener
from runner.errors import InputError, Locked, RunnerError, innermost
from runner.invocation import Options, now, now_ms
from runner.ledger import THUMBNAIL, Job, Ledger
from runner.store import Store, store_at

if TYPE_CHECKING:
    from runner.cluster.joining import Cluster
    from runner.engine.hands import OpenHands
    from runner.engine.renditions import Renderer
    from runner.manifest import Manifest
    from runner.renditions import Recipe

MOST_WORKERS = 32
"""Worker processes at most where there are no requests beside them."""


@dataclass(frozen=True, slots=True)
class Rendering:
    """What came of `render`: files that were made, that could not be, and what there is to be had."""

    job: str
    renditions: int
    renditions_failed: int
    composites: int
    composites_failed: int
    folder: Path | str
    """Where renditions lie: a folder, or a URL in a bucket."""


@dataclass(frozen=True, slots=True)
class Gallery:
    """The page (a file, or its URL in a bucket), and the thumbnails that were made for it.

    `is_busy` when a run holds the job and makes them.
    """

    job: str
    page: Path | str
    thumbnails: int
    thumbnails_failed: int
    is_busy: bool


def renderer_for(
    manifest: Manifest,
    path: Path,
    ledger: Ledger,
    store: Store,
    job: Job,
    emit: Listener,
    cluster: Cluster | None = None,
) -> Renderer | None:
    """Who makes what a job derives from its images while they are made; None where it derives nothing."""
    composites = ledger.has_inputs(job)
    recipes = {recipe.name: recipe for recipe in manifest.recipes}
    if store.derived.has_gallery():
        recipes |= _thumbnail()
    if not composites and not recipes:
        return None
    from runner.engine.renditions import MOST_WORKERS as MOST_BESIDE
    from runner.engine.renditions import Renderer

    return Renderer(
        ledger=ledger,
        store=store,
        job=job,
        base=path.parent,
        recipes=recipes,
        composites=composites,
        emit=emit,
        now_ms=now_ms,
        hands=None if cluster is None else _hands(cluster, store, MOST_BESIDE, emit),
    )


def _hands(cluster: Cluster, store: Store, most_workers: int, emit: Listener) -> OpenHands:
    """The nodes of a cluster, and at most so many worker processes here for what they cannot make."""
    from runner.cluster.painting import painting

    return partial(
        painting, cluster, store, most_workers=most_workers, warn=lambda message: emit(events.Warned(message))
    )


async def make_all(renderer: Renderer, finished: anyio.Event, emit: Listener) -> None:
    """Make what is derived to the end; what goes wrong with it ends no run."""
    try:
        await renderer.run()
    except Exception as raised:
        # Whatever it is: requests that are paid for are under way beside it, and would be cancelled with it.
        error = innermost(raised)
        renderer.renditions.failed += 1
        told = str(error) if isinstance(error, RunnerError) else f"{type(error).__name__}: {error}"
        emit(events.Warned(f"no further renditions are made: {told}"))
    finished.set()


def render(job: str | Path, options: Options, listener: Listener) -> Rendering:
    """See `runner.api.render`."""
    with invocation.open_to_write(options) as ledger:
        known = invocation.find_job(job, ledger)
        path = invocation.find_manifest(known.name if not Path(job).is_file() else job, ledger)
        manifest = manifests.load(path, overrides=options.overrides, catalog=catalogs.load(options.catalog))
        recipes = {recipe.name: recipe for recipe in manifest.recipes}
        composites = ledger.has_inputs(known)
        if not recipes and not composites:
            raise InputError(
                f"the manifest {path} asks for no renditions",
                hint="add `renditions: [{name: card, width: 320, height: 180, fit: cover}]` to it",
            )
        store = store_at(options.output_for(known, manifest), known.name)
        with ExitStack() as held:
            _hold(ledger, store, known, held)
            renderer = _alone(
                ledger, store, known, path.parent, recipes, composites=composites, listener=listener, options=options
            )
        return Rendering(
            known.name,
            renderer.renditions.made,
            renderer.renditions.failed,
            renderer.composites.made,
            renderer.composites.failed,
            store.located(f"{known.name}/renditions"),
        )


def gallery(job: str | Path, options: Options, listener: Listener) -> Gallery:
    """See `runner.api.gallery`."""
    with invocation.open_to_write(options) as ledger:
        known = invocation.find_job(job, ledger)
        store = store_at(options.output_for(known), known.name)
        made = failed = 0
        is_busy = False
        with ExitStack() as held:
            try:
                _hold(ledger, store, known, held)
            except Locked:
                is_busy = True
            else:
                renderer = _alone(
                    ledger, store, known, Path(), _thumbnail(), composites=False, listener=listener, options=options
                )
                made, failed = renderer.renditions.made, renderer.renditions.failed
            write_gallery(ledger, store, known)
        return Gallery(known.name, store.located(store.derived.gallery_path), made, failed, is_busy)


def show_beside(origin: str, name: str, options: Options, listener: Listener) -> None:
    """Bring the gallery of a job up to date that images were chosen from, and make one of the new job's.

    Only where the origin has a gallery; what goes wrong is told.
    """
    try:
        with invocation.open_to_write(options) as ledger:
            output = options.output_for(ledger.job(origin))
        if store_at(output, origin).derived.has_gallery():
            for job in (name, origin):
                gallery(job, options, listener)
    except RunnerError as error:
        listener(events.Warned(f"the gallery is not up to date: {error}"))


def write_gallery(ledger: Ledger, store: Store, job: Job) -> None:
    """Write the gallery's page as things are now.

    Raises:
        StoreError: the disk refuses.
    """
    from runner.report.gallery import FileLinks, page
    from runner.report.results import results

    # Without a choice there is no reason to look at every image once more.
    found = results(ledger, job) if any(True for _ in ledger.reviews.all(job)) else None
    told = found.as_dict() if found is not None and found.choices else None
    text = page(ledger, job, links=FileLinks(), now=now(), results=told)
    store.derived.put(store.derived.gallery_path, (piece.encode("utf-8", "surrogatepass") for piece in text))


def _thumbnail() -> dict[str, Recipe]:
    from runner.engine.renditions import GALLERY_THUMBNAIL

    return {THUMBNAIL: GALLERY_THUMBNAIL}


def _hold(ledger: Ledger, store: Store, job: Job, held: ExitStack) -> None:
    """Hold a job and its folder, as a run does: two that derive the same would be in each other's way.

    Raises:
        Locked: a run holds it.
    """
    held.enter_context(ledger.lock(job.name, now=now()))
    store.prepare()
    held.enter_context(store.lock(now=now()))


def _alone(
    ledger: Ledger,
    store: Store,
    job: Job,
    base: Path,
    recipes: Mapping[str, Recipe],
    *,
    composites: bool,
    listener: Listener,
    options: Options,
) -> Renderer:
    """Make what is lacking, where no run goes on beside it."""
    from runner.engine.renditions import Renderer

    digests = {kind: recipe.digest for kind, recipe in recipes.items()}
    listener(events.RenderingBegan(job.name, ledger.renditions.count_lacking(job, digests)))

    async def make() -> Renderer:
        async with cluster_for(options.engine, options.ray_address) as cluster:
            renderer = Renderer(
                ledger=ledger,
                store=store,
                job=job,
                base=base,
                recipes=recipes,
                composites=composites,
                emit=listener,
                now_ms=now_ms,
                most_workers=MOST_WORKERS,
                hands=None if cluster is None else _hands(cluster, store, MOST_WORKERS, listener),
            )
            renderer.end()
            await renderer.run()
            return renderer

    try:
        return anyio.run(make)
    except ExceptionGroup as group:
        raise innermost(group) from None
