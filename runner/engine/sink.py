"""Where the bytes of one answer go while they come in.

Owns the rule that an answer is read to its end also when it proves to hold no image: its usage comes last, and is what
it costs. Refuses to know where the bytes come from, and what becomes of the attempt.
"""

from __future__ import annotations

from runner.store import BadImage, Partial, Sealed


class ImageSink:
    """Writes an image until it proves to be none; the rest of the answer is still read, for its bill."""

    def __init__(self, partial: Partial) -> None:
        self.partial = partial
        self._bad: BadImage | None = None

    def write(self, data: bytes, /) -> None:
        """Take the next bytes."""
        if self._bad is None:
            try:
                self.partial.write(data)
            except BadImage as error:
                self._bad = error

    def seal(self) -> Sealed:
        """Finish the file; raises what made it no image."""
        if self._bad is not None:
            raise self._bad
        return self.partial.seal()
