"""What driver and nodes say to each other.

Owns the shapes; all of them survive pickling. An error is a value here, never raised across the cluster: Ray would wrap
it, and print what it wraps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from runner.errors import ProviderError, StoreError
from runner.provider import Endpoint, Made, Timeouts
from runner.rules.pacing import Heard
from runner.store import Output, Sealed


@dataclass(frozen=True, slots=True)
class Place:
    """Where images go, as a node opens it. `token` lies at `token_path`, if it is the place that the driver sees."""

    output: Output
    job: str
    token_path: str
    token: bytes
    version: str
    """The driver's version of this package."""


@dataclass(frozen=True, slots=True)
class Service:
    """Where requests go, for how many at a time on a node. It holds the key: it is sent, and never stored or shown."""

    endpoint: Endpoint
    timeouts: Timeouts
    connections: int
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What the client of the driver reads from its environment, and that of a node is to read as well."""


@dataclass(frozen=True, slots=True)
class Ready:
    """What an actor says when it has begun: what keeps it from working, else how many questions it takes at a time."""

    problem: str | None = None
    hint: str | None = None
    room: int = 1


@dataclass(frozen=True, slots=True)
class Picture:
    """A file that goes with a request, by what it shows; `where` holds the reference to its bytes.

    In a list, because Ray replaces a reference that stands by itself by what it refers to.
    """

    identity: str
    bytes: int
    format: str
    where: list[object]


@dataclass(frozen=True, slots=True)
class Brought:
    """An answer with an image: received and sealed, or (`bad`: message and code) found to be none."""

    made: Made
    sealed: Sealed | None
    bad: tuple[str, str] | None
    heard: Sequence[Mapping[str, Heard]]


@dataclass(frozen=True, slots=True)
class Failed:
    """A request that brought none."""

    error: ProviderError | StoreError
    heard: Sequence[Mapping[str, Heard]]


Answer = Brought | Failed


@dataclass(frozen=True, slots=True)
class Unmade:
    """Why a node could not make what it was asked for."""

    message: str
