"""Where the page finds its images: the addresses that are written into it.

Owns how a path of the ledger becomes a URL beside the page. Refuses to look whether anything lies there.
"""

from __future__ import annotations

from typing import Protocol
from urllib.parse import quote

from runner.ledger import Relative, Tile


class Links(Protocol):
    """The URL of each picture; None where there is none."""

    def image(self, tile: Tile) -> str | None:
        """That of the asset."""

    def thumbnail(self, tile: Tile) -> str | None:
        """That of its thumbnail."""

    def composite(self, tile: Tile) -> str | None:
        """That of the asset pasted onto its original."""

    def relative(self, relative: Relative) -> str | None:
        """That of the other side of a promotion, which may be of another job."""

    def relative_thumbnail(self, relative: Relative) -> str | None:
        """That of its thumbnail."""


class FileLinks:
    """Relative URLs for a page in `<output>/<job>/gallery/`: two folders up is the output folder."""

    def image(self, tile: Tile) -> str | None:
        """The asset's file."""
        return _beside(tile.path)

    def thumbnail(self, tile: Tile) -> str | None:
        """The thumbnail's file."""
        return _beside(tile.thumbnail)

    def composite(self, tile: Tile) -> str | None:
        """The composite's file."""
        return _beside(tile.composite)

    def relative(self, relative: Relative) -> str | None:
        """The file of the other side's asset."""
        return _beside(relative.path)

    def relative_thumbnail(self, relative: Relative) -> str | None:
        """The file of the other side's thumbnail."""
        return _beside(relative.thumbnail)


def _beside(path: str | None) -> str | None:
    # Names hold whatever a prompt's id may: `#`, `?`, `%` and any Unicode.
    return None if path is None else f"../../{quote(path)}"
