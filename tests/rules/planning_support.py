"""Support of the tests of plans, prices and models: tasks that follow from a number, and a plan of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from runner import catalog, planner
from runner.planner import Batching, Clash, Known, Plan
from runner.rules import pricing
from runner.rules.models import Models
from runner.rules.pacing import Gate
from runner.tasks import Edit, ImageRequest, Input, Origin, Task

CATALOG = catalog.load()
MINI = "gpt-image-1-mini"
TWO = "gpt-image-2"
FLARE = "gpt-image-2.6-flare"
PROMPT = "A lighthouse at dusk"


def task(n: int = 1, *, model: str = MINI, size: str = "1024x1024", quality: str = "low", prompt: str = PROMPT) -> Task:
    """The n-th task of a job; its key and name follow from `n` alone."""
    request = ImageRequest(prompt, model, size=size, quality=quality)
    return Task(f"{n:064x}", f"p{n}", 1, request, (("size", size),), f"p{n}/{quality}.png", Origin("job.yaml", n, 3))


def nothing_known(keys: Sequence[str]) -> Mapping[str, Known]:
    return {}


def no_clash(keys: Sequence[str], names: Sequence[str], place: Callable[[int], str]) -> Mapping[int, Clash]:
    return {}


class Claims:
    """Names and keys that were seen, as the ledger keeps them for a plan."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.keys: dict[str, str] = {}

    def __call__(self, keys: Sequence[str], names: Sequence[str], place: Callable[[int], str]) -> Mapping[int, Clash]:
        found: dict[int, Clash] = {}
        for index, (key, name) in enumerate(zip(keys, names, strict=True)):
            here = place(index)
            if (first := self.keys.setdefault(key, here)) != here:
                found[index] = Clash("key", first)
            elif (first := self.names.setdefault(name, here)) != here:
                found[index] = Clash("name", first)
        return found


def make(
    tasks: Iterable[Task],
    *,
    gates: Mapping[str, Gate] | None = None,
    known: planner.Lookup = nothing_known,
    claim: planner.Claim = no_clash,
    models: Models | None = None,
    provider: str = "openai",
    batching: Batching | None = None,
    seen: Mapping[str, pricing.Calibration] | None = None,
) -> Plan:
    """A plan of `tasks`, with everything that a test does not speak of left out."""
    return planner.make(
        tasks,
        job="job",
        provider=provider,
        simulated=False,
        catalog=CATALOG,
        models=models or Models({MINI: MINI}, ()),
        gates=gates or {},
        known=known,
        claim=claim,
        batching=batching,
        seen=seen or {},
    )


def edited(n: int, images: int, *, side: int = 1024, composite: str | None = None) -> Task:
    """A task that starts from so many images."""
    plain = task(n)
    edit = Edit(tuple(Input(f"{n:032x}{i:032x}", side, 1024) for i in range(images)))
    return replace(plain, request=replace(plain.request, edit=edit), composite=composite)
