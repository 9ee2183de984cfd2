"""wanted - known = to do, with its price: what `runner plan` says before a cent is spent.

Owns the counting of a plan, the checks that need every task at once (two tasks with one file name, two that ask for the
same image), and its price by either delivery. Refuses to read the ledger, the clock or the manifest's files: tasks and
what is known of them are arguments, and tasks are looked at once, in chunks.
"""

from __future__ import annotations

import functools
import itertools
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

from runner.catalog import BATCH_WINDOW_S
from runner.errors import InputError, ManifestError
from runner.rules import pricing
from runner.rules.models import Models, place_of
from runner.rules.pacing import Gate, Pacer
from runner.rules.quoting import Quoter
from runner.tasks import ImageRequest, Status, Task

if TYPE_CHECKING:
    from runner.catalog import Catalog, Delivery

T = TypeVar("T")

CHUNK = 1000
"""Tasks looked up and recorded at a time."""
_ROUNDING = 0.02


@dataclass(frozen=True, slots=True)
class Batching:
    """How batch delivery goes: requests in one batch at most, and the models of what falls back online, if it does."""

    max_requests: int
    online_models: Models | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """What the ledger knows of a key: its status in this job (None: never seen), and whether another job has it."""

    status: Status | None
    reusable: bool = False


_NEW = Known(None)


@dataclass(frozen=True, slots=True)
class Clash:
    """Two tasks of one job that want the same thing: `first` is where the earlier one was written."""

    kind: str
    first: str


Lookup = Callable[[Sequence[str]], Mapping[str, Known]]
Claim = Callable[[Sequence[str], Sequence[str], Callable[[int], str]], Mapping[int, Clash]]
"""Takes the keys and the folded names of a chunk, and where the task of an index was written; answers for each index
that clashes with an earlier task."""


@dataclass(slots=True)
class Group:
    """One line of the plan: a model, size and quality. Money in micro-dollars, `to_do` images are sent and paid for."""

    model: str
    size: str
    quality: str
    wanted: int = 0
    done: int = 0
    reusable: int = 0
    to_do: int = 0
    left: int = 0
    """Failed or refused earlier: not sent again unless asked."""
    submitted: int = 0
    """In a batch that the provider has: paid for already, and not to do."""
    expected_microusd: int = 0
    worst_microusd: int = 0
    input_images: int = 0
    """Images that go with what is sent."""


@dataclass(slots=True)
class Offer:
    """What is to do, by one delivery: what it costs in micro-dollars, and how long it takes in seconds."""

    expected_microusd: int = 0
    worst_microusd: int = 0
    at_least_s: float | None = None
    within_s: float | None = None
    """As of a plan: `at_least_s` at the allowed rate online, `within_s` in batches."""


@dataclass(slots=True)
class Plan:
    """What a run would do. Times are seconds at the allowed rate, money is micro-dollars of the chosen delivery."""

    job: str
    provider: str
    price_version: str
    simulated: bool
    groups: dict[tuple[str, str, str], Group] = field(default_factory=dict)
    by_status: dict[str, int] = field(default_factory=dict)
    tokens: int = 0
    paced_images: int = 0
    """Images that count against the images a minute: those of edits among them, where the provider counts them."""
    duration_s: float | None = None
    """At least, at the allowed rate; None without a limit, and in batches."""
    within_s: float | None = None
    """How long the provider gives itself for a batch; None online."""
    delivery: Delivery = "online"
    batches: int = 0
    """Files of requests that batch delivery makes of it."""
    falls_back: bool = False
    """Whether what a batch does not deliver is made online: then at the price of that offer, at most."""
    offers: dict[Delivery, Offer] = field(default_factory=dict)
    """What is to do by each delivery, where the provider has both for all of it; else empty."""
    warnings: list[str] = field(default_factory=list)
    effective_models: dict[str, str] = field(default_factory=dict)

    def total(self, what: str) -> int:
        """The sum of one column over all groups."""
        return sum(int(getattr(group, what)) for group in self.groups.values())


def make(
    tasks: Iterable[Task],
    *,
    job: str,
    provider: str,
    simulated: bool,
    catalog: Catalog,
    models: Models,
    gates: Mapping[str, Gate],
    known: Lookup,
    claim: Claim,
    seen: Mapping[str, pricing.Calibration] = MappingProxyType({}),
    batching: Batching | None = None,
) -> Plan:
    """Count, price and check every task of a job, in one pass over `tasks`. `seen` calibrates a model's input tokens.

    With `batching` the delivery is by batch: nothing has to pass the gates then.

    Raises:
        ManifestError: two tasks with one file name or one request, with both places.
        InputError: a request that the limits can never let pass.
    """
    delivery: Delivery = "online" if batching is None else "batch"
    plan = Plan(job, provider, catalog.version, simulated, delivery=delivery)
    plan.warnings.extend(models.warnings)
    plan.effective_models = dict(models.effective)
    quoter = Quoter(catalog, provider, models.effective, delivery, seen)
    other = _Other(catalog, provider, models, batching, seen)
    lines: Counter[tuple[str, bool]] = Counter()
    counts_inputs = catalog.counts_input_images(provider)
    pacer = Pacer(dict(gates))
    warned_auto = warned_inputs = warned_shape = False
    largest = -1
    request: ImageRequest | None = None
    for chunk in chunks(tasks, CHUNK):
        _refuse_clashes(chunk, claim)
        states = known([task.key for task in chunk])
        for task in chunk:
            if task.request is not request:
                # The samples of one combination share their request.
                request = task.request
                quote = quoter.quote(request)
                place = (request.model, request.size, request.quality)
                group = plan.groups.get(place) or plan.groups.setdefault(place, Group(*place))
                if request.quality == "auto" and not warned_auto:
                    warned_auto = True
                    plan.warnings.append(
                        "quality `auto` may render and bill as the highest quality: it is priced as that"
                    )
                images = paced_images(request, counts_inputs=counts_inputs)
                gate = gates.get("images") if batching is None else None
                if gate is not None and images > gate.per_minute and not warned_inputs:
                    warned_inputs = True
                    plan.warnings.append(
                        f"{place_of(task.origin)}: an edit of {images} images may count as so many against a limit of "
                        f"{gate.per_minute:g} a minute, and then never passes: raise the limit or send fewer"
                    )
            if task.composite is not None and not warned_shape and _is_stretched(request):
                warned_shape = True
                plan.warnings.append(
                    f"{place_of(task.origin)}: an answer of {request.size} has another shape than its image: "
                    "the composite stretches it"
                )
            if _count(plan, group, states.get(task.key, _NEW), quote):
                plan.paced_images += images
                group.input_images += len(request.edit.images) if request.edit else 0
                other.add(request)
                if batching is not None:
                    lines[quoter.model_for(request.model), request.edit is not None] += 1
                if quote.tokens > largest:
                    largest = quote.tokens
                    try:
                        pacer.check({"tokens": float(largest), "images": 1.0, "requests": 1.0})
                    except InputError as error:
                        if batching is None:
                            raise
                        other.withdraw(plan, error)
    _offer(plan, other, _duration_s(plan, gates))
    if batching is not None:
        plan.batches = sum(-(-count // batching.max_requests) for count in lines.values())
        plan.falls_back = batching.online_models is not None
    return plan


class _Other:
    """What is to do, by the delivery that was not chosen, as long as all of it can go that way."""

    def __init__(
        self,
        catalog: Catalog,
        provider: str,
        models: Models,
        batching: Batching | None,
        seen: Mapping[str, pricing.Calibration],
    ) -> None:
        self.delivery: Delivery = "batch" if batching is None else "online"
        self._falling_back = batching.online_models if batching is not None else None
        self._quoter = Quoter(catalog, provider, (self._falling_back or models).effective, self.delivery, seen)
        self._is_there = functools.cache(functools.partial(self._look, catalog, provider))
        self._request: ImageRequest | None = None
        self._quote = pricing.Quote(0, 0, 0)
        self.offer: Offer | None = Offer()
        """None as soon as a part of it cannot go that way."""

    def add(self, request: ImageRequest) -> None:
        """One more image of this request is to do."""
        if self.offer is None:
            return
        if request is not self._request:
            # Samples share their request, as in `make`: each is quoted once by each delivery.
            if not self._is_there(self._quoter.model_for(request.model)):
                self.offer = None
                return
            self._request, self._quote = request, self._quoter.quote(request)
        self.offer.expected_microusd += self._quote.expected_microusd
        self.offer.worst_microusd += self._quote.worst_microusd

    def withdraw(self, plan: Plan, error: InputError) -> None:
        """A request that goes in a batch can never pass the limits online."""
        if self.offer is not None and self._falling_back is not None:
            plan.warnings.append(f"what no batch delivers cannot fall back online: {error.message}")
        self.offer = None

    def _look(self, catalog: Catalog, provider: str, model: str) -> bool:
        served = self.delivery == "online" or catalog.has_batch(provider, model)
        return served and catalog.has_price(provider, model, self.delivery)


def paced_images(request: ImageRequest, *, counts_inputs: bool) -> int:
    """What a request counts against the images a minute: one, or its input images where the provider counts them."""
    return len(request.edit.images) if counts_inputs and request.edit is not None else 1


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """`items` in lists of at most `size`, lazily."""
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk


def fold(name: str) -> str:
    """A file name as a careless file system sees it: upper and lower case and Unicode forms are one."""
    if name.isascii():
        return name.lower()
    # Folding undoes a normal form here and there, so it is made once more.
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())


def _refuse_clashes(chunk: Sequence[Task], claim: Claim) -> None:
    clashes = claim(
        [task.key for task in chunk],
        [fold(task.name) for task in chunk],
        lambda index: place_of(chunk[index].origin),
    )
    for index, clash in sorted(clashes.items()):
        task = chunk[index]
        if clash.kind == "name":
            message = f"two tasks would be written to the file {task.name!r}; the other one stands at {clash.first}"
            hint = (
                "add what tells them apart to output.name, for example {{ prompt_id }}, {{ quality }} or {{ sample }}"
            )
        else:
            message = f"this asks for the same image as {clash.first}: prompt, settings and sample are all the same"
            hint = "use `samples: 2` for several images of one request, or remove one of the two"
        raise ManifestError(
            message, source=task.origin.source, line=task.origin.line, column=task.origin.column, hint=hint
        )


def _count(plan: Plan, group: Group, known: Known, quote: pricing.Quote) -> bool:
    """Count one task; whether it will be sent."""
    group.wanted += 1
    status = known.status
    word = "new" if status is None else status
    plan.by_status[word] = plan.by_status.get(word, 0) + 1
    if status is Status.DONE:
        group.done += 1
    elif status in (Status.FAILED, Status.REFUSED):
        group.left += 1
    elif status is Status.SUBMITTED:
        group.submitted += 1
    elif known.reusable:
        group.reusable += 1
    else:
        group.to_do += 1
        group.expected_microusd += quote.expected_microusd
        group.worst_microusd += quote.worst_microusd
        plan.tokens += quote.tokens
        return True
    return False


def _is_stretched(request: ImageRequest) -> bool:
    """Whether the answer to an edit has another shape than its first image, by more than rounding explains."""
    pixels = request.pixels
    if pixels is None or request.edit is None:
        return False
    base = request.edit.images[0]
    ratio = (pixels[0] * base.height) / (pixels[1] * base.width)
    return not 1 - _ROUNDING <= ratio <= 1 + _ROUNDING


def _offer(plan: Plan, other: _Other, at_least_s: float | None) -> None:
    """How long it takes by the chosen delivery; and both of them, where there are both."""
    own = Offer(plan.total("expected_microusd"), plan.total("worst_microusd"))
    by: dict[Delivery, Offer | None] = {plan.delivery: own, other.delivery: other.offer}
    if plan.delivery == "online":
        plan.duration_s = at_least_s
    else:
        plan.within_s = float(BATCH_WINDOW_S)
    if plan.total("to_do") == 0:
        return
    online, batch = by["online"], by["batch"]
    if online is not None and batch is not None:
        online.at_least_s, batch.within_s = at_least_s, float(BATCH_WINDOW_S)
        plan.offers = {"online": online, "batch": batch}


def _duration_s(plan: Plan, gates: Mapping[str, Gate]) -> float | None:
    """How long the allowed rate makes it take; None without a limit (then it is up to the provider's speed)."""
    amounts = {"images": plan.paced_images, "requests": plan.total("to_do"), "tokens": plan.tokens}
    return max((amounts[name] * 60.0 / gate.per_minute for name, gate in gates.items()), default=None)
