"""The files that go with a request, from what is on record of its inputs.

Owns the way from a recorded source to a file to send. Refuses to know how it is made: `inputs` does, and is imported by
the first request that starts from an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from runner.engine.shared import Inputs
from runner.errors import InputError
from runner.provider import Upload
from runner.tasks import Source

if TYPE_CHECKING:
    from runner.inputs import Inputs as Pictures


def uploads_from(base: Path) -> Inputs:
    """What finds the files of a job whose manifest lies in the folder `base`. Safe among threads."""

    @cache
    def pictures() -> Pictures:
        from runner.inputs import Inputs as Pictures

        return Pictures(base)

    def find(sources: Sequence[Source]) -> list[Upload]:
        from runner.inputs import BadInput

        try:
            found = [pictures().fetch(source) for source in sources]
        except BadInput as error:
            raise InputError(error.message, hint=error.hint) from error
        return [Upload(each.path, each.bytes, each.format) for each in found]

    return find
