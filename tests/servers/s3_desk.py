"""Places for images in the tests: a bucket of an S3 server, and a folder and a memory that fsspec reaches.

Owns looking at what lies there, past the store.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from itertools import count
from pathlib import Path
from urllib.parse import quote, unquote

import pytest

from runner.store.bucket import BucketStore
from runner.store.places import Bucket, output_at
from tests.servers.s3 import KEY, S3

_NUMBERS = count(1)
_SIGNED = {
    "Authorization": f"AWS4-HMAC-SHA256 Credential={KEY}/20261123/us-east-1/s3/aws4_request, "
    "SignedHeaders=host, Signature=0"
}
"""The server looks for a signature, and not at it."""


@dataclass(frozen=True, slots=True)
class Ground:
    """A place where images go, and the way to see it: by S3's own words, or as files."""

    url: str
    server: S3 | None = None
    folder: Path | None = None

    @property
    def bucket(self) -> Bucket:
        """The place."""
        found = output_at(self.url)
        assert isinstance(found, Bucket)
        return found

    def store(self, job: str = "job") -> BucketStore:
        """A store of a job there."""
        return BucketStore(self.bucket, job)

    def tree(self) -> dict[str, bytes]:
        """Everything that lies there, by its path."""
        if self.server is not None:
            return {path: self._get(path) for path in self._paths()}
        if self.folder is not None:
            files = (path for path in sorted(self.folder.rglob("*")) if path.is_file())
            return {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in files}
        import fsspec

        memory = fsspec.filesystem("memory")
        root = f"/{self.bucket.root}"
        return {path[len(root) + 1 :]: memory.cat(path) for path in memory.find(root)}

    def spoil(self, path: str, data: bytes | None) -> None:
        """Let other bytes lie at a path, or none."""
        if self.server is not None:
            self._ask("DELETE" if data is None else "PUT", f"{self._prefix}{path}", data)
        elif self.folder is not None:
            (self.folder / path).unlink() if data is None else (self.folder / path).write_bytes(data)
        else:
            import fsspec

            memory = fsspec.filesystem("memory")
            at = f"/{self.bucket.root}/{path}"
            memory.rm(at) if data is None else memory.pipe(at, data)

    @property
    def _name(self) -> str:
        return self.bucket.root.partition("/")[0]

    @property
    def _prefix(self) -> str:
        prefix = self.bucket.root.partition("/")[2]
        return f"{prefix}/" if prefix else ""

    def _paths(self) -> list[str]:
        told = self._ask("GET", f"?list-type=2&max-keys=1000&prefix={quote(self._prefix)}").decode()
        assert "<IsTruncated>true" not in told
        return [unquote(key)[len(self._prefix) :] for key in re.findall(r"<Key>(.*?)</Key>", told)]

    def _get(self, path: str) -> bytes:
        return self._ask("GET", f"{self._prefix}{path}")

    def _ask(self, method: str, key: str, body: bytes | None = None) -> bytes:
        assert self.server is not None
        connection = HTTPConnection(self.server.endpoint.removeprefix("http://"), timeout=20)
        try:
            where = key if key.startswith("?") else f"/{quote(key)}"
            connection.request(method, f"/{self._name}{where}", body, _SIGNED)
            answer = connection.getresponse()
            told = answer.read()
            assert answer.status < 300, (method, key, answer.status, told)
            return told
        finally:
            connection.close()


@contextmanager
def at_s3(server: S3, monkeypatch: pytest.MonkeyPatch, *, endpoint: str | None = None) -> Iterator[Ground]:
    """A prefix of a new bucket, for this process and those that it begins."""
    for name, value in server.environment(endpoint).items():
        monkeypatch.setenv(name, value)
    yield Ground(f"{server.bucket()}/team/sweeps", server=server)


def in_folder(folder: Path) -> Ground:
    """A folder that only fsspec writes to."""
    folder.mkdir(parents=True, exist_ok=True)
    return Ground(f"local://{folder}", folder=folder)


def in_memory() -> Ground:
    """A place that ends with this process."""
    return Ground(f"memory://place-{next(_NUMBERS)}/prefix")
