"""The pictures of one manifest: names in, pictures that are ready to be sent out.

Owns the order of things: find, check (once), change where need be (once), and the recipe by which all of it is done
again later. Refuses to know how a picture is read, changed, drawn or kept; its neighbours do.
"""

from __future__ import annotations

import errno
import glob
import itertools
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal

from runner.inputs import masks, preparing
from runner.inputs.cache import Cache, default_cache
from runner.inputs.pasting import composite_recipe
from runner.inputs.reading import (
    Facts,
    Place,
    check,
    decoding,
    digest,
    glance,
    load,
    open_file,
    signature,
    signature_of,
)
from runner.inputs.types import BadInput, Mask, Prepare, Ready
from runner.tasks import Input, Source

MAX_IMAGE_BYTES: Final = 50_000_000
"""An image that is sent is smaller than this."""
MAX_MASK_BYTES: Final = 4_000_000
"""A mask that is sent is smaller than this."""
MAX_MATCHES: Final = 100_000
"""Files that one glob may stand for."""
_MB: Final = 1_000_000
_ENDINGS: Final = {"png": "png", "jpeg": "jpg", "webp": "webp"}


class Inputs:
    """The pictures that a manifest in the folder `base` names.

    `cache` is where converted files and checks are kept; None is the user's cache folder. `clock_ns` is the clock of
    the file system (ns since the epoch). Safe among threads.
    """

    def __init__(self, base: Path, cache: Path | None = None, *, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._base = base.absolute()
        self._cache = Cache(default_cache() if cache is None else cache, clock_ns=clock_ns)

    def expand(self, name: str) -> list[str]:
        """The files that `name` stands for, sorted: itself, or what a glob (`*`, `?`, `[ ]`, `**`) finds.

        Raises:
            BadInput: a glob finds no file, or far too many; or it would walk through folders that are not below the
                manifest's: `**` alone can mean a whole disk.
        """
        if not glob.has_magic(name) or os.path.lexists(self._base / name):
            return [name]
        parts = Path(name).parts
        if "**" in parts and (Path(name).is_absolute() or ".." in parts):
            raise BadInput(f"{name} leads out of the manifest's folder", hint="`**` is for folders below it")
        # Path.glob knows neither absolute patterns nor the shell's rule for hidden files.
        found = glob.iglob(name, root_dir=self._base, recursive=True)  # noqa: PTH207 # see above
        matched = set(itertools.islice(found, MAX_MATCHES + 1))
        if len(matched) > MAX_MATCHES:
            raise BadInput(f"more than {MAX_MATCHES:,} files match {name}", hint="name a narrower folder")
        files = sorted({Path(path).as_posix() for path in matched if not (self._base / path).is_dir()})
        if not files:
            raise BadInput(f"no file matches {name}", hint="paths are relative to the manifest's folder")
        return files

    def image(self, name: str, prepare: Prepare | None = None) -> Ready:
        """The picture of this name as it is sent.

        Raises:
            BadInput: it cannot be sent.
        """
        place = Place(self._base / name, name)
        facts = self._checked(place)
        what = preparing.change(facts, prepare)
        recipe = _recipe(name, prepare)
        if what is None:
            _refuse_large(place, facts.bytes)
            return _ready(facts.sha256, (facts.width, facts.height), recipe, place.path, facts.bytes, facts.format)
        identity = preparing.change_identity(facts, what)

        def made() -> bytes:
            with open_file(place) as file:
                _refuse_another(digest(file, place), facts, place)
                return preparing.changed(file, place, facts, what)

        path, length = self._kept(identity, what.format, made, place)
        _refuse_large(place, length, prepared=True)
        return _ready(identity, (what.width, what.height), recipe, path, length, what.format)

    def mask(self, mask: Mask, image: str, prepare: Prepare | None = None) -> Ready:
        """The mask for the picture `image`, as the API takes it, at the size at which that picture is sent.

        Raises:
            BadInput: about the mask, or about the image.
        """
        place, size, facts, mask_facts = self._judged(mask, image)
        sent = preparing.sent_size(facts, prepare)
        recipe = _recipe(image, prepare, mask)
        if (
            mask_facts is not None
            and masks.is_for_the_api(mask, mask_facts, sent)
            and mask_facts.bytes < MAX_MASK_BYTES
        ):
            return _ready(mask_facts.sha256, sent, recipe, place.path, mask_facts.bytes, "png")
        drawing = (
            {"source": mask_facts.sha256, "mode": mask.mode} if mask_facts else {"drawn": mask.box or mask.polygon}
        )
        identity = preparing.identity(mask=drawing, size=size, sent=sent)

        def made() -> bytes:
            with decoding():
                if mask_facts is None:
                    plane = masks.drawn(mask, size)
                else:
                    with open_file(place) as file:
                        _refuse_another(digest(file, place), mask_facts, place)
                        plane = masks.plane_of(load(file, place), mask, place, mask_facts, size)
                return masks.png(masks.shrunk(plane, sent))

        path, length = self._kept(identity, "png", made, place)
        if length >= MAX_MASK_BYTES:
            raise place.bad(
                f"has {length / _MB:.1f} MB as a mask of {sent[0]}x{sent[1]}: under {MAX_MASK_BYTES // _MB} are sent",
                "shrink the image with `prepare: {max_side: ...}`, or use a mask without noise",
            )
        return _ready(identity, sent, recipe, path, length, "png")

    def composite(self, image: str, mask: Mask) -> str:
        """What `paste` has to know to paste an answer onto the picture `image`, as canonical JSON.

        Raises:
            BadInput: the mask does not fit the image, or one of them cannot be read.
        """
        _, _, facts, mask_facts = self._judged(mask, image)
        return composite_recipe(image, facts, mask, mask_facts)

    def fetch(self, source: Source) -> Ready:
        """The picture that was recorded as `source`, as it was the first time; made again if need be.

        Raises:
            BadInput: a file is missing, or no longer shows what it did.
        """
        about: Literal["image", "mask"] = "image"
        try:
            recipe = json.loads(source.recipe)
            name = str(recipe["path"])
            prepare = Prepare(**recipe["prepare"]) if "prepare" in recipe else None
            mask = _mask(recipe["mask"]) if "mask" in recipe else None
            image = str(recipe["image"]) if mask is not None else name
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(
                f"what is on record of an input cannot be read: {error}", hint="plan the job again"
            ) from None
        if mask is not None:
            about, ready = "mask", self.mask(mask, image, prepare)
        else:
            ready = self.image(name, prepare)
        if ready.input.identity != source.identity:
            raise BadInput(
                f"{name} has changed since it was planned",
                hint="put the old file back, or run again: the changed picture is planned as a new task",
                about=about,
            )
        return ready

    def _judged(self, mask: Mask, image: str) -> tuple[Place, masks.Size, Facts, Facts | None]:
        """The mask's place, the size of the image it is for, and what is known of that image and of the mask's file."""
        facts = self._checked(Place(self._base / image, image))
        size = facts.width, facts.height
        name = mask.file or ("the box" if mask.box else "the polygon")
        place = Place(self._base / name, name, "mask")
        mask_facts = self._checked(place) if mask.file is not None else None
        masks.judge(mask, image, size, place, mask_facts)
        return place, size, facts, mask_facts

    def _checked(self, place: Place) -> Facts:
        """What is known of the file: from an earlier check if it is sure to be the same file."""
        now = signature(place)
        note = self._cache.recall(place.path)
        if note is not None and note.holds(now):
            return note.facts
        with open_file(place) as file:
            glance(file, place)
            before = signature_of(os.fstat(file.fileno()))
            sha256 = digest(file, place)
            # Equal bytes are the same picture, whenever they were written.
            facts = note.facts if note is not None and note.facts.sha256 == sha256 else check(file, place, sha256)
            if signature_of(os.fstat(file.fileno())) != before:
                raise place.bad("is being written to", "wait until it is whole")
        self._cache.remember(place.path, before, facts)
        return facts

    def _kept(self, identity: str, form: str, made: Callable[[], bytes], place: Place) -> tuple[Path, int]:
        """The converted file and its length in bytes: from the cache, or made now."""
        ending = _ENDINGS[form]
        found = self._cache.find(identity, ending)
        if found is not None:
            return found
        with decoding():
            # Another thread may have made it while this one waited.
            found = self._cache.find(identity, ending)
            if found is not None:
                return found
            data = made()
            try:
                return self._cache.keep(identity, ending, data), len(data)
            except OSError as error:
                full = error.errno in (errno.ENOSPC, errno.EDQUOT)
                raise place.bad(
                    f"was converted, and the result cannot be written: {error.strerror or error}",
                    "make space" if full else "set XDG_CACHE_HOME or TMPDIR to a folder that can be written",
                ) from None


def described(source: Source) -> str:
    """What a recorded input is made of, for people: its file's path, or what is drawn."""
    try:
        recipe = json.loads(source.recipe)
        mask = recipe.get("mask", {})
        drawn = next((f"{shape} {json.dumps(mask[shape])}" for shape in ("box", "polygon") if mask.get(shape)), None)
        return drawn or str(recipe["path"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return source.recipe


def _ready(identity: str, size: tuple[int, int], recipe: str, path: Path, length: int, form: str) -> Ready:
    return Ready(Input(identity, *size), Source(identity, recipe), path, length, form)


@lru_cache(maxsize=4096)
def _recipe(image: str, prepare: Prepare | None, mask: Mask | None = None) -> str:
    recipe: dict[str, Any] = {"path": image}
    if mask is not None:
        recipe = {"path": mask.file or image, "image": image, "mask": _told(mask)}
    if prepare is not None:
        recipe["prepare"] = _told(prepare)
    return json.dumps(recipe, sort_keys=True, separators=(",", ":"))


def _refuse_large(place: Place, length: int, *, prepared: bool = False) -> None:
    if length >= MAX_IMAGE_BYTES:
        told = "would be sent with" if prepared else "has"
        raise place.bad(
            f"{told} {length / _MB:.1f} MB: an image is sent with under {MAX_IMAGE_BYTES // _MB} MB",
            "shrink it, e.g. with `prepare: {max_side: 1536, format: webp}`",
        )


def _refuse_another(sha256: str, facts: Facts, place: Place) -> None:
    if sha256 != facts.sha256:
        raise place.bad("is being written to", "wait until it is whole")


def _told(value: Prepare | Mask) -> dict[str, Any]:
    """What is on record of it. Defaults are written down: another version may have others."""
    return {name: told for name, told in asdict(value).items() if told is not None and name != "feather"}


def _mask(told: dict[str, Any]) -> Mask:
    box, polygon = told.get("box"), told.get("polygon")
    found = {name: value for name, value in told.items() if name not in ("box", "polygon")}
    if box is not None:
        x, y, width, height = box
        found["box"] = x, y, width, height
    if polygon is not None:
        found["polygon"] = tuple((x, y) for x, y in polygon)
    return Mask(**found)
