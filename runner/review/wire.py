"""What a browser sends, held against what it may send; and the form of what it is told when it may not.

Owns the strictness: nothing unknown, no type for another, names of people as one line of what can be printed.
"""

from __future__ import annotations

import unicodedata
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator
from pydantic_core import from_json

from runner.errors import InputError

LONGEST_NAME = 80
MOST_BODY_BYTES = 4096
LARGEST = 2**53 - 1
"""The largest number that a browser's JSON keeps whole."""


def person(text: str) -> str:
    """A person's name as it goes on record: composed, one space between words.

    Raises:
        ValueError: there is nothing left of it, it is too long, or it holds what cannot be printed.
    """
    name = " ".join(unicodedata.normalize("NFC", text).split())
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        raise ValueError(f"a name has 1 to {LONGEST_NAME} characters, all of which can be printed")
    return name


def named(text: str) -> str:
    """`person`, for what a user has typed; raises InputError."""
    try:
        return person(text)
    except ValueError as error:
        raise InputError(f"{text[:LONGEST_NAME]!r} cannot be a person's name: {error}", hint="give another") from None


Name = Annotated[str, StringConstraints(max_length=400), AfterValidator(person)]
Image = Annotated[int, Field(ge=1, le=LARGEST)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Asked(_Strict):
    """Who asks."""

    reviewer: Name


class Skipped(Asked):
    """A pair, or an image, that is not to be asked about for now."""

    left: Image
    right: Image | None = None


class Chosen(Asked):
    """A choice; `token` is made by the browser, so that one which is sent twice counts once."""

    token: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{8,64}$")]
    left: Image
    right: Image | None = None
    verdict: Literal["left", "right", "both", "neither", "stars"]
    stars: Annotated[int, Field(ge=1, le=5)] | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> Chosen:
        if self.verdict == "stars":
            if self.stars is None or self.right is not None:
                raise ValueError("stars are given to one image, 1 to 5")
        elif self.stars is not None or self.right is None or self.right == self.left:
            raise ValueError("a verdict is of two images, and has no stars")
        return self


M = TypeVar("M", bound=BaseModel)


def read(model: type[M], body: bytes) -> M:
    """What a body says.

    Raises:
        ValueError: it is no JSON.
        InputError: it is not what this address takes.
    """
    said = from_json(body)
    try:
        return model.model_validate(said, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        told = f"{where}: {first['msg']}" if where else str(first["msg"])
        raise InputError(told, hint="open the page anew") from None
