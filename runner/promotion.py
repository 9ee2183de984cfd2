"""Finalists made again: a manifest of the images that were chosen, for another model, size or quality, or as edits.

Owns what of a chosen image goes into the new request, and the name of the new job. From there on it is a job like any
other: planned, capped, paid, resumed by its name. Refuses to choose (`report.finalists`).
"""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from runner import catalog as catalogs
from runner import invocation
from runner import manifest as manifests
from runner.errors import InputError, RunnerError
from runner.invocation import Options
from runner.ledger import Job, Ledger, Tile
from runner.planner import CHUNK, chunks
from runner.report.finalists import finalists
from runner.store import Store, store_at

_KEPT = ("provider", "fallback_model", "limits", "budget", "retry", "timeouts", "renditions")
"""What a promotion takes over from the manifest of its origin."""
_MOST_NAME = 100
_PIECE_BYTES = 1 << 20
_ID_KEY_DIGITS = 10


@dataclass(frozen=True, slots=True)
class Choosing:
    """Which images of a job are made again; one of the first three is given."""

    winners: bool = False
    min_stars: float | None = None
    picks: tuple[str, ...] = ()
    top: int | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """How they are made again. None is what the chosen image had; `name` None is made of the origin's and of these."""

    model: str | None = None
    quality: str | None = None
    size: str | None = None
    as_edit: bool = False
    samples: int = 1
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Promotion:
    """A manifest to be planned, at `manifest` for the block that it was prepared for; `keep` gives it its place.

    `chosen` in this call, `before` in earlier ones for the same target.
    """

    origin: str
    name: str
    manifest: Path
    text: str
    chosen: Sequence[Tile]
    before: int


@dataclass(slots=True)
class _Prompt:
    """One request of the new job, and the chosen images that come to it."""

    entry: dict[str, Any]
    keys: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Files:
    """The chosen images, and the folder of the manifest that names them."""

    images: Store
    manifests: Store
    folder: Path

    def beside(self, path: str) -> str:
        """The way from the manifest to an image, which is copied to this machine if it is not a file of it.

        Raises:
            StoreError: it cannot be read, or not be written here.
        """
        found = self.images.located(path)
        if isinstance(found, str):
            with self.images.local_copy(path) as copy, copy.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                file.seek(0)
                kept = self.manifests.derived.promoted_path(digest, path)
                self.manifests.derived.put(kept, iter(partial(file.read, _PIECE_BYTES), b""))
            found = Path(self.manifests.located(kept))
        return Path(os.path.relpath(os.path.realpath(found), os.path.realpath(self.folder))).as_posix()


@contextmanager
def prepared(job: str | Path, options: Options, choosing: Choosing, target: Target) -> Iterator[Promotion]:
    """Write the manifest of a promotion, to be planned; it is there for the block alone.

    Raises:
        InputError: nothing is chosen, or what would be asked for is what is there already.
    """
    with invocation.open_to_write(options) as ledger:
        origin = invocation.find_job(job, ledger)
        chosen = finalists(
            ledger,
            origin,
            winners=choosing.winners,
            min_stars=choosing.min_stars,
            picks=choosing.picks,
            top=choosing.top,
        )
        if not chosen:
            raise InputError(
                f"nothing of {origin.name!r} is chosen yet",
                hint=f"choose on the page of `runner review {origin.name}`, or name images with --pick",
            )
        name = _checked(target.name or _name(origin.name, target))
        if name == origin.name:
            raise InputError(f"{name!r} is the job that was chosen from", hint="give the new one another --name")
        earlier = _earlier(ledger, origin, name, {tile.key for tile in chosen})
        kept = _kept(origin, ledger, options)
        _really(chosen, kept, options)
        images = store_at(options.output_for(origin), origin.name)
        # A manifest is a file of this machine, wherever images go.
        store = store_at(options.output_folder, origin.name)
        store.prepare()
        path = store.derived.promotion_path(f"{name}~plan-{os.getpid()}")
        manifest = Path(store.located(path))
        files = _Files(images, store, manifest.parent)
        text = _yaml(_manifest(origin, name, [*earlier, *chosen], target, kept, files))
    store.derived.put(path, text.encode("utf-8", "surrogatepass"))
    try:
        yield Promotion(origin.name, name, manifest, text, chosen, len(earlier))
    finally:
        store.release(path)


def keep(promotion: Promotion, options: Options) -> Path:
    """Give the manifest of a promotion the place where runs find it; that of an earlier one of its name goes."""
    store = store_at(options.output_folder, promotion.origin)
    path = store.derived.promotion_path(promotion.name)
    store.derived.put(path, promotion.text.encode("utf-8", "surrogatepass"))
    return Path(store.located(path))


def _checked(name: str) -> str:
    """The name, if it can be a job's: it becomes that of a file."""
    from runner.manifest.problems import Wrong
    from runner.manifest.values import safe_job_name

    try:
        return safe_job_name(name)
    except Wrong as error:
        raise InputError(f"--name: {error.message}", hint=error.hint) from None


def _name(origin: str, target: Target) -> str:
    words = [origin, *(word for word in (target.model, target.quality, target.size) if word)]
    if target.as_edit:
        words.append("edit")
    return "-".join(words)[:_MOST_NAME].rstrip(".-") if len(words) > 1 else f"{origin}-promoted"


def _earlier(ledger: Ledger, origin: Job, name: str, but: set[str]) -> list[Tile]:
    """What was promoted to the same job before, so that it stays wanted there."""
    ids = {
        relative.task_id for relative in ledger.relatives(origin) if relative.side == "after" and relative.job == name
    }
    found: list[Tile] = []
    for page in chunks(sorted(ids), CHUNK):
        with ledger.tiles(origin, page) as tiles:
            found.extend(tile for tile in tiles if tile.key not in but and tile.path is not None)
    return sorted(found, key=lambda tile: tile.position)


def _kept(origin: Job, ledger: Ledger, options: Options) -> Mapping[str, Any]:
    """What the origin's manifest says of provider, pace and money; nothing where it is gone."""
    import yaml

    try:
        path = invocation.find_manifest(origin.name, ledger)
        manifest = manifests.load(path, catalog=catalogs.load(options.catalog))
    except RunnerError:
        return {}
    data = yaml.safe_load(manifests.resolved(manifest))
    return {key: data[key] for key in _KEPT if data.get(key) is not None}


def _really(chosen: Sequence[Tile], kept: Mapping[str, Any], options: Options) -> None:
    """Simulated images are not made again for real money by an oversight."""
    if any(tile.simulated for tile in chosen) and options.provider is None and kept.get("provider") != "simulator":
        raise InputError(
            "the chosen images are simulated, and would be made again for money",
            hint="add --provider simulator, or --provider openai if that is what you want",
        )


def _manifest(
    origin: Job,
    name: str,
    tiles: Sequence[Tile],
    target: Target,
    kept: Mapping[str, Any],
    files: _Files,
) -> dict[str, Any]:
    prompts: dict[tuple[object, ...], _Prompt] = {}
    for tile in tiles:
        settings: dict[str, Any] = {
            "model": target.model or tile.wanted_model,
            "size": target.size or tile.size,
            "quality": target.quality or tile.quality,
            "background": tile.background,
            "output_format": tile.output_format,
            "moderation": tile.moderation,
        }
        if tile.output_compression is not None:
            settings["output_compression"] = tile.output_compression
        is_same = (settings["model"], settings["size"], settings["quality"]) == (
            tile.wanted_model,
            tile.size,
            tile.quality,
        )
        if is_same and not target.as_edit:
            raise InputError(
                f"{tile.name} would be made again exactly as it is",
                hint="name another --model, --quality or --size, or use --as-edit",
            )
        if tile.has_edit and not target.as_edit:
            raise InputError(
                f"{tile.name} was made from pictures of its own, and without them it would be another image",
                hint="use --as-edit: then the chosen image is what the new one starts from",
            )
        entry: dict[str, Any] = {
            "id": f"{tile.prompt_id}-{tile.key[:_ID_KEY_DIGITS]}",
            # A prompt's text is a template, what a variable holds is not.
            "text": "{{ prompt }}",
            "vars": {"prompt": tile.prompt},
            "settings": settings,
        }
        if target.as_edit and tile.path is not None:
            entry["edit"] = {"images": [glob.escape(files.beside(tile.path))]}
        same = (tile.prompt, *settings.values(), str(entry.get("edit")))
        prompts.setdefault(same, _Prompt(entry)).keys.append(tile.key)
    return {
        "version": 1,
        "name": name,
        "description": f"made again from {len(tiles)} chosen images of {origin.name}",
        "model": target.model or tiles[0].wanted_model,
        **{key: value for key, value in kept.items() if key != "fallback_model" or target.model is None},
        "prompts": [prompt.entry for prompt in prompts.values()],
        "samples": target.samples,
        "output": {"name": "{{ prompt_id }}/{{ size }}-{{ quality }}-{{ sample }}"}
        | ({} if origin.output is None else {"dir": origin.output}),
        "promotion": {
            "job": origin.name,
            "origins": {prompt.entry["id"]: prompt.keys for prompt in prompts.values()},
        },
    }


def _yaml(data: Mapping[str, Any]) -> str:
    import yaml

    text = yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True, width=120)
    assert isinstance(text, str)
    return f"# Written by `runner promote`; run or resume it by its name.\n{text}"
