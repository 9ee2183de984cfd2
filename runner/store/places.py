"""Where images go: a folder of this machine, or a prefix in a bucket of an object store.

Owns what a place is called, and that no secret is part of its name. Refuses to open anything.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from runner.errors import InputError

_URL = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Bucket:
    """A prefix in an object store, such as `s3://bucket/prefix`; any protocol that fsspec knows. No slash ends it."""

    url: str

    def __str__(self) -> str:
        return self.url

    @property
    def protocol(self) -> str:
        """What stands before `://`."""
        return self.url.partition("://")[0]

    @property
    def root(self) -> str:
        """What stands behind `://`: the bucket and the prefix."""
        return self.url.partition("://")[2]

    def joined(self, path: str) -> str:
        """The URL of what lies at `path` below this place."""
        return f"{self.url}/{path}"


Output = Path | Bucket
"""The place that the paths of a ledger are relative to."""


def url_of(output: Output) -> str | None:
    """What is put on record of a place: the URL of a bucket, None for a folder."""
    return output.url if isinstance(output, Bucket) else None


def output_at(text: str | Path | Bucket) -> Output:
    """The place that a text names: a URL is a bucket, all else is a folder.

    Raises:
        InputError: it is a URL that names no place, or one with a secret in it.
    """
    if not isinstance(text, str):
        return text
    found = _URL.fullmatch(text)
    if found is None:
        return Path(text)
    protocol, rest = found[1].lower(), found[2]
    if protocol == "file":
        # A folder is made durable better by what knows folders.
        return Path(rest)
    root = rest.rstrip("/")
    if "@" in root.partition("/")[0] or any(c in root for c in "?#"):
        # Without the text: what is wrong with it may be that a key stands in it.
        raise InputError(
            f"the {protocol}:// URL of the output has a user, a password or a query in it",
            hint="name only the bucket and the prefix; keys come from the environment (AWS_ACCESS_KEY_ID, ~/.aws)",
        )
    parts = root.removeprefix("/").split("/")
    if any(part in ("", ".", "..") for part in parts) or not root.isprintable():
        raise InputError(f"{text!r} is no place for images", hint="name a bucket and a prefix: s3://bucket/prefix")
    return Bucket(f"{protocol}://{root}")
