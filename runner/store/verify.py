"""Checks that an image is whole while its bytes stream by.

Owns the push side of verification: chunks of any size go in, facts or a verdict come out, and nothing is held but a few
header bytes. Refuses to know how the formats are built (`formats` does), pixels, files, and what size was asked for.
"""

from __future__ import annotations

from collections.abc import Generator

from runner.store.formats import BadImage, Cursor, ImageFacts, damaged, read_image

__all__ = ["BadImage", "ImageFacts", "ImageVerifier"]


class ImageVerifier:
    """Verifies one image, fed in chunks of any size.

    `max_pixels` bounds width x height: what a small file may make of itself in the memory of whoever opens it.
    """

    def __init__(self, *, max_pixels: int = 100_000_000) -> None:
        self._cursor = Cursor()
        self._parser = read_image(self._cursor, max_pixels)
        self._facts: ImageFacts | None = None
        self._failure: BadImage | None = None

    def feed(self, chunk: bytes | memoryview) -> None:
        """Take the next bytes of the image. The chunk is not kept.

        Raises:
            BadImage: the bytes so far cannot be the beginning of a good image; every later call raises it again.
        """
        if self._failure is not None:
            raise self._failure
        if not chunk:
            return
        self._cursor.open(chunk)
        try:
            if self._facts is None:
                self._facts = _advance(self._parser)
            if self._facts is not None and self._cursor.remaining:
                raise damaged(f"bytes follow the end of the {self._facts.format} image")
        except BadImage as error:
            self._failure = error
            raise
        finally:
            self._cursor.close()

    def finish(self) -> ImageFacts:
        """The bytes have ended: what the image is.

        Raises:
            BadImage: it is not whole, or `feed` has already said what is wrong.
        """
        if self._failure is not None:
            raise self._failure
        if self._facts is None:
            raise BadImage(f"The image ends too early, after {self._cursor.seen} bytes.", code="incomplete_image")
        return self._facts


def _advance(parser: Generator[None, None, ImageFacts]) -> ImageFacts | None:
    try:
        next(parser)
    except StopIteration as end:
        facts: ImageFacts = end.value
        return facts
    return None
