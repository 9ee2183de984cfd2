"""What need not be done twice: converted files by identity, and what the check of a file has found.

Owns the folder, how things are written there (whole or not at all, by any number of processes), and when something that
lies there may be believed. Refuses to know pictures. Everything in the folder can be lost, damaged or removed at any
time: it is then made again.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from runner.inputs.reading import FORMATS, Facts, Signature, signature_of

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

RACY_NS: Final = 2_000_000_000
"""A file that was written so shortly before it was checked may have been written again within one tick of its clock."""
_VERSION: Final = 1
_LARGEST_NOTE_BYTES: Final = 65_536
_HEX: Final = re.compile(r"[0-9a-f]{64}")
_KEPT: Final = re.compile(r"[0-9a-f]{64}\.(png|jpg|webp)(\.json)?|[0-9a-f]{62}\.json|\..*\.part")
"""The names of what this module writes; nothing else is ever removed."""
_DAY_S: Final = 86_400
KEPT_S: Final = 30 * _DAY_S
"""What nobody has used for so long is removed."""
_REMEMBERED: Final = 4096


def default_cache() -> Path:
    """Where converted files and checks are kept: the user's cache folder (XDG Base Directory).

    Where that cannot be written, a private temporary folder, which ends with the process.
    """
    told = os.environ.get("XDG_CACHE_HOME", "")
    try:
        folder = (Path(told) if told.startswith("/") else Path.home() / ".cache") / "runner" / "inputs"
    except RuntimeError:  # a user without a home
        return private_folder()
    with suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    return private_folder()


@lru_cache(maxsize=1)
def private_folder() -> Path:
    """A folder of this process and of those that it forks, which ends with it.

    Raises:
        OSError: there is no place for temporary files either.
    """
    folder = Path(tempfile.mkdtemp(prefix="runner-inputs-"))
    owner = os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # a child that was forked ends earlier than its parent
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder


class Recent(Generic[K, V]):
    """A mapping that forgets what was not used for long; safe among threads."""

    def __init__(self, most: int = _REMEMBERED) -> None:
        self._most = most
        self._found: OrderedDict[K, V] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        """What is remembered under `key`."""
        with self._lock:
            found = self._found.get(key)
            if found is not None:
                self._found.move_to_end(key)
            return found

    def put(self, key: K, value: V) -> None:
        """Remember `value`, and forget what was used least recently."""
        with self._lock:
            self._found[key] = value
            self._found.move_to_end(key)
            if len(self._found) > self._most:
                self._found.popitem(last=False)

    def __len__(self) -> int:
        return len(self._found)


@dataclass(frozen=True, slots=True)
class Note:
    """What a check has found, of which file, and when (ns since the epoch, by the wall clock)."""

    signature: Signature
    checked_ns: int
    facts: Facts

    def holds(self, now: Signature) -> bool:
        """Whether the file is sure to be the one that was checked."""
        _, modified_ns, changed_ns, _ = self.signature
        return self.signature == now and max(modified_ns, changed_ns) + RACY_NS < self.checked_ns


class Cache:
    """The folder of converted files and checks; another one of this process where it cannot be written."""

    def __init__(self, folder: Path, *, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._folders = [folder]
        self._clock_ns = clock_ns
        self._notes: Recent[str, Note] = Recent()
        self._verified: Recent[Path, Signature] = Recent()
        self._swept = False

    # --- converted files

    def find(self, identity: str, ending: str) -> tuple[Path, int] | None:
        """The converted file of this identity and its length in bytes, None where there is none that is whole."""
        for folder in self._folders:
            path = folder / f"{identity}.{ending}"
            with suppress(OSError):
                found = os.lstat(path)
                if self._verified.get(path) == signature_of(found):
                    return path, found.st_size
                if stat.S_ISREG(found.st_mode) and _is_whole(path):
                    self._still_used(path, found)
                    return path, found.st_size
        return None

    def keep(self, identity: str, ending: str, data: bytes) -> Path:
        """Keep `data` as the converted file of this identity.

        Raises:
            OSError: it can be kept nowhere.
        """
        told = json.dumps({"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}).encode()
        name = f"{identity}.{ending}"
        folder = self._written((name, data), (f"{name}.json", told))
        path = folder / name
        self._verified.put(path, signature_of(os.lstat(path)))
        return path

    # --- checks

    def recall(self, path: Path) -> Note | None:
        """What is remembered of the file at this absolute path; whether it still holds is for the caller to say."""
        key = _key(path)
        note = self._notes.get(key)
        for folder in self._folders if note is None else ():
            with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
                note = _read_note((folder / _note_name(key)).read_bytes()[:_LARGEST_NOTE_BYTES])
                self._notes.put(key, note)
                break
        return note

    def remember(self, path: Path, signature: Signature, facts: Facts) -> None:
        """Note what a check of the file at this absolute path has found, for this process and later ones."""
        note = Note(signature, self._clock_ns(), facts)
        key = _key(path)
        self._notes.put(key, note)
        body = {"version": _VERSION, "signature": signature, "checked_ns": note.checked_ns, "facts": asdict(facts)}
        with suppress(OSError):
            self._written((_note_name(key), json.dumps([body, _sum(body)]).encode()))

    def _still_used(self, path: Path, found: os.stat_result) -> None:
        """Remember that a converted file is whole, and keep it from being removed as one that nobody uses."""
        if found.st_mtime_ns + _DAY_S * 10**9 < self._clock_ns():
            with suppress(OSError):
                for name in (path.name, f"{path.name}.json"):
                    os.utime(path.with_name(name))
        self._verified.put(path, signature_of(os.lstat(path)))

    def _sweep(self, folder: Path) -> None:
        """Once a day, remove what nobody has used for long."""
        self._swept = True
        now_s = self._clock_ns() / 1e9
        mark = folder / ".swept"
        with suppress(OSError):
            if mark.exists() and abs(now_s - mark.stat().st_mtime) < _DAY_S:
                return
            mark.touch()
            for path in chain(folder.iterdir(), folder.glob("checks/*/*")):
                with suppress(OSError):
                    if _KEPT.fullmatch(path.name) and os.lstat(path).st_mtime < now_s - KEPT_S:
                        path.unlink()

    def _written(self, *files: tuple[str, bytes]) -> Path:
        """The folder in which all of the files were written, in this order: the first that can be written."""
        try:
            folder = _write_all(self._folders[-1], files)
            if not self._swept:
                self._sweep(folder)
            return folder
        except OSError:
            private = private_folder()
            if private not in self._folders:
                self._folders.append(private)
            return _write_all(private, files)


def _write_all(folder: Path, files: tuple[tuple[str, bytes], ...]) -> Path:
    for name, data in files:
        path = folder / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=".", suffix=".part", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            Path(temporary).replace(path)
        except BaseException:
            with suppress(OSError):
                Path(temporary).unlink()
            raise
    return folder


def _is_whole(path: Path) -> bool:
    """Whether a converted file is what was written down of it."""
    try:
        told = json.loads(path.with_name(f"{path.name}.json").read_bytes()[:_LARGEST_NOTE_BYTES])
        data = path.read_bytes() if path.stat().st_size == told["bytes"] else b""
        return bool(data) and hashlib.sha256(data).hexdigest() == told["sha256"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _key(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()


def _note_name(key: str) -> str:
    return f"checks/{key[:2]}/{key[2:]}.json"


def _sum(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _read_note(text: bytes) -> Note:
    """Raises ValueError, KeyError or TypeError for what this module has not written."""
    body, told = json.loads(text)
    if body["version"] != _VERSION or _sum(body) != told:
        raise ValueError("not a note of ours")
    facts = Facts(**body["facts"])
    size, modified_ns, changed_ns, inode = body["signature"]
    if not _HEX.fullmatch(facts.sha256) or facts.format not in FORMATS or min(facts.width, facts.height) < 1:
        raise ValueError("not a note of ours")
    return Note((size, modified_ns, changed_ns, inode), body["checked_ns"], facts)
