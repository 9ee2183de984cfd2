"""Files that are made of assets, or about them: thumbnails, renditions, composites, pages. All of them are free.

Owns where each of them lies, and that it is there as a whole or not at all. Unlike an asset, one may be replaced.
"""

from __future__ import annotations

import hashlib
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from runner.store.files import explained, flush_folder, fresh


class Derived(ABC):
    """Those of one job. Paths are relative to the output place."""

    def __init__(self, job: str) -> None:
        self._job = job

    def composite_path(self, name: str) -> str:
        """Where the composite of the asset of this name lies, relative to the output folder; always a PNG."""
        return f"{self._job}/composites/{name if name.endswith('.png') else f'{name}.png'}"

    def thumbnail_path(self, name: str) -> str:
        """Where the gallery's picture of the asset of this name lies."""
        return f"{self._job}/gallery/thumbs/{_with_ending(name, '.webp')}"

    def rendition_path(self, kind: str, name: str, ending: str) -> str:
        """Where a rendition of the manifest lies, of the asset of this name."""
        return f"{self._job}/renditions/{kind}/{_with_ending(name, ending)}"

    @property
    def gallery_path(self) -> str:
        """Where the gallery's page lies; whoever has one gets it brought up to date by each run."""
        return f"{self._job}/gallery/index.html"

    @property
    def report_path(self) -> str:
        """Where the report of the last run lies."""
        return f"{self._job}/report.html"

    def promotion_path(self, name: str) -> str:
        """Where the manifest of a promotion of this job lies."""
        return f"{self._job}/promotions/{name}.yaml"

    def promoted_path(self, sha256: str, path: str) -> str:
        """Where a picture lies that a promotion starts from, where its asset is no file of this machine."""
        return f"{self._job}/promotions/pictures/{sha256}{Path(path).suffix}"

    @abstractmethod
    def has_gallery(self) -> bool:
        """Whether the job has a gallery."""

    def put(self, path: str, data: bytes | Iterable[bytes]) -> None:
        """Let a file that was derived lie at `path`, durably and at once as a whole; what was there is replaced.

        Raises:
            StoreError: the path leaves the job's place, or it cannot be written.
        """
        self.put_all([(path, data)])

    @abstractmethod
    def put_all(self, files: Sequence[tuple[str, bytes | Iterable[bytes]]]) -> None:
        """As `put`, for files that come together.

        Raises:
            StoreError: a path leaves the job's place, or one cannot be written.
        """


class FolderDerived(Derived):
    """Those in a folder. `target` proves that a path lies in the job's folder, `scratch` is where files begin."""

    def __init__(self, output: Path, job: str, *, target: Callable[[str], Path], scratch: Callable[[], Path]) -> None:
        super().__init__(job)
        self._output = output
        self._target = target
        self._scratch = scratch

    def has_gallery(self) -> bool:
        """Whether the job has a gallery."""
        return stat.S_ISREG(_mode(self._output / self.gallery_path))

    def put_all(self, files: Sequence[tuple[str, bytes | Iterable[bytes]]]) -> None:
        """As `put`, for files that come together: their folders are flushed once."""
        folders: set[Path] = set()
        for path, data in files:
            # The gallery's page may be written by a command and by a run at the same time.
            name = f"put-{hashlib.sha256(path.encode()).hexdigest()[:16]}-{os.getpid()}"
            temporary = self._scratch() / name
            target = self._target(path)
            try:
                with explained(target):
                    with os.fdopen(fresh(temporary), "wb") as file:
                        for piece in (data,) if isinstance(data, bytes) else data:
                            file.write(piece)
                        file.flush()
                        os.fsync(file.fileno())
                    temporary.replace(target)
            except BaseException:
                # On a full disk, what is no file yet must not keep its room.
                with suppress(OSError):
                    temporary.unlink()
                raise
            folders.add(target.parent)
        for folder in folders:
            with explained(folder):
                flush_folder(folder)


def _with_ending(name: str, ending: str) -> str:
    return Path(name).with_suffix(ending).as_posix()


def _mode(path: Path) -> int:
    """The mode of what lies at a path, itself a link or not; 0 where nothing does."""
    try:
        return path.lstat().st_mode
    except OSError:
        return 0
