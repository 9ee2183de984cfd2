"""wanted - known = to do, with its price: what `runner plan` says before a cent is spent.

Owns the counting of a plan, the checks that need every task at once (two tasks with one file name, two that ask for the
same image), the models' ends and the choice of the fallback. Refuses to read the ledger, the clock or the manifest's
files: tasks, what is known of them and the date are arguments, and tasks are looked at once, in chunks.
"""

from __future__ import annotations

import datetime as dt
import itertools
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

from runner.errors import InputError, ManifestError, StopRun
from runner.rules import pricing
from runner.rules.pacing import Gate, Pacer
from runner.tasks import Edit, ImageRequest, Origin, Status, Task

if TYPE_CHECKING:
    from runner.catalog import Catalog, Delivery, Prices

T = TypeVar("T")

CHUNK = 1000
"""Tasks looked up and recorded at a time."""
_MOST_EDITS = 1000
_ROUNDING = 0.02
WARN_DAYS = 30
"""How long before a model's shutdown plan and run begin to warn."""


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
    expected_microusd: int = 0
    worst_microusd: int = 0
    input_images: int = 0
    """Images that go with what is sent."""


@dataclass(slots=True)
class Plan:
    """What a run would do. Times are seconds at the allowed rate, money is micro-dollars."""

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
    warnings: list[str] = field(default_factory=list)
    effective_models: dict[str, str] = field(default_factory=dict)

    def total(self, what: str) -> int:
        """The sum of one column over all groups."""
        return sum(int(getattr(group, what)) for group in self.groups.values())


@dataclass(frozen=True, slots=True)
class Models:
    """Which model is asked for each that is wanted, today, and what to say about it."""

    effective: Mapping[str, str]
    warnings: tuple[str, ...]
    fallback: str | None = None
    """What is asked when the provider says that a model is gone; None where nothing can be."""


def choose_models(
    wanted: Mapping[str, Origin],
    *,
    fallback: str | None,
    provider: str,
    catalog: Catalog,
    today: dt.date,
    delivery: Delivery = "online",
) -> Models:
    """The model to send for each wanted one: itself, or the fallback once it has been shut down.

    Raises:
        StopRun: a model has been shut down and there is no fallback that is still served; nothing was sent.
        InputError: a model has no price at this provider.
    """
    effective: dict[str, str] = {}
    warnings: list[str] = []
    usable = fallback
    if fallback is not None and not catalog.has_price(provider, fallback, delivery):
        # What has no price cannot be kept under a cap; a gateway's job need not end for want of a second model.
        usable = None
        warnings.append(f"fallback_model {fallback} has no price at {provider} in the catalog: it will not be asked")
    for name, origin in wanted.items():
        place = _place(origin)
        model = catalog.model(name)
        lifecycle = catalog.lifecycle(provider, name)
        shutdown = lifecycle.shutdown if lifecycle else None
        enforced = catalog.provider(provider).enforces_shutdown
        chosen = name
        if shutdown is not None and today >= shutdown and enforced:
            if fallback is None or _is_over(fallback, provider, catalog, today):
                raise StopRun(
                    f"{place}: {name} was shut down by {provider} on {shutdown}"
                    + (f", and so was its fallback {fallback}" if fallback else ""),
                    code="model_shut_down",
                    hint=f"change that line to `model: {_successor(model.successors)}`, "
                    f"or add `fallback_model: {_successor(model.successors)}`",
                )
            chosen = fallback
            warnings.append(f"{name} was shut down on {shutdown}: {fallback} is used instead (fallback_model)")
        elif shutdown is not None and (shutdown - today).days <= WARN_DAYS:
            days = (shutdown - today).days
            when = f"in {days} days" if days > 0 else "already"
            then = f"then {usable} takes over" if usable else f"add `fallback_model: {_successor(model.successors)}`"
            warnings.append(f"{place}: {name} is shut down by OpenAI on {shutdown} ({when}); {then}")
        catalog.prices_for(provider, chosen, delivery)
        effective[name] = chosen
    if (
        usable is not None
        and catalog.provider(provider).enforces_shutdown
        and _is_over(usable, provider, catalog, today)
    ):
        usable = None
    return Models(effective, tuple(warnings), usable)


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
    delivery: Delivery = "online",
) -> Plan:
    """Count, price and check every task of a job, in one pass over `tasks`. `seen` calibrates a model's input tokens.

    Raises:
        ManifestError: two tasks with one file name or one request, with both places.
        InputError: a request that the limits can never let pass.
    """
    plan = Plan(job, provider, catalog.version, simulated)
    plan.warnings.extend(models.warnings)
    plan.effective_models = dict(models.effective)
    quoter = Quoter(catalog, provider, models.effective, delivery, seen)
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
                gate = gates.get("images")
                if gate is not None and images > gate.per_minute and not warned_inputs:
                    warned_inputs = True
                    plan.warnings.append(
                        f"{_place(task.origin)}: an edit of {images} images may count as so many against a limit of "
                        f"{gate.per_minute:g} a minute, and then never passes: raise the limit or send fewer"
                    )
            if task.composite is not None and not warned_shape and _is_stretched(request):
                warned_shape = True
                plan.warnings.append(
                    f"{_place(task.origin)}: an answer of {request.size} has another shape than its image: "
                    "the composite stretches it"
                )
            if _count(plan, group, states.get(task.key, _NEW), quote):
                plan.paced_images += images
                group.input_images += len(request.edit.images) if request.edit else 0
                if quote.tokens > largest:
                    largest = quote.tokens
                    pacer.check({"tokens": float(largest), "images": 1.0, "requests": 1.0})
    plan.duration_s = _duration_s(plan, gates)
    return plan


def paced_images(request: ImageRequest, *, counts_inputs: bool) -> int:
    """What a request counts against the images a minute: one, or its input images where the provider counts them."""
    return len(request.edit.images) if counts_inputs and request.edit is not None else 1


def calibrations(seen: Iterable[tuple[str, Edit, int]], catalog: Catalog) -> dict[str, pricing.Calibration]:
    """What each model's input images were billed in tokens, from (model, edit, tokens) of its newest edits."""
    by_model: dict[str, list[tuple[Edit, int]]] = {}
    for name, edit, tokens in seen:
        by_model.setdefault(name, []).append((edit, tokens))
    found: dict[str, pricing.Calibration] = {}
    for name, of_model in by_model.items():
        try:
            rule = catalog.model(name).input_tokens
        except InputError:
            continue  # a model of another catalog
        if rule is not None:
            found[name] = pricing.calibrated(of_model, rule)
    return found


class Quoter:
    """Prices tasks at one provider; remembers the output side of each model, size and quality, and the last prompt."""

    def __init__(
        self,
        catalog: Catalog,
        provider: str,
        effective: Mapping[str, str],
        delivery: Delivery = "online",
        seen: Mapping[str, pricing.Calibration] = MappingProxyType({}),
    ) -> None:
        self._catalog = catalog
        self._provider = provider
        self._delivery: Delivery = delivery
        self._effective = dict(effective)
        self._images: dict[tuple[str, str, str], pricing.Quote] = {}
        self._prompt = ""
        self._prompts: dict[str, pricing.Quote] = {}
        self._seen = seen
        self._edits: dict[tuple[str, Edit], pricing.Quote] = {}

    def quote(self, request: ImageRequest) -> pricing.Quote:
        """The price of `request` on the model that would be asked now."""
        model = self.model_for(request.model)
        place = (model, request.size, request.quality)
        image = self._images.get(place)
        if image is None:
            image = pricing.image_quote(request.size, request.quality, self._catalog.model(model), self.prices(model))
            self._images[place] = image
        if self._prompt != request.prompt:
            self._prompt = request.prompt
            self._prompts.clear()
        prompt = self._prompts.get(model)
        if prompt is None:
            prompt = self._prompts[model] = pricing.prompt_quote(request.prompt, self.prices(model))
        return image + prompt if request.edit is None else image + prompt + self._start(request.edit, model)

    def _start(self, edit: Edit, model: str) -> pricing.Quote:
        quote = self._edits.get((model, edit))
        if quote is None:
            if len(self._edits) >= _MOST_EDITS:
                self._edits.clear()
            seen = self._seen.get(model, pricing.UNTRIED)
            quote = pricing.edit_quote(edit, self._catalog.model(model), self.prices(model), seen)
            self._edits[model, edit] = quote
        return quote

    def model_for(self, wanted: str) -> str:
        """The model that is asked where `wanted` is wanted."""
        return self._effective.get(wanted, wanted)

    def prices(self, model: str) -> Prices:
        """The price list of a model at this provider."""
        return self._catalog.prices_for(self._provider, model, self._delivery)

    @property
    def effective_models(self) -> frozenset[str]:
        """Every model that is asked now."""
        return frozenset(self._effective.values())

    def replace(self, gone: str, model: str) -> None:
        """From now on `model` is asked wherever `gone` was."""
        for wanted, effective in self._effective.items():
            if effective == gone:
                self._effective[wanted] = model


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
        lambda index: _place(chunk[index].origin),
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


def _duration_s(plan: Plan, gates: Mapping[str, Gate]) -> float | None:
    """How long the allowed rate makes it take; None without a limit (then it is up to the provider's speed)."""
    amounts = {"images": plan.paced_images, "requests": plan.total("to_do"), "tokens": plan.tokens}
    return max((amounts[name] * 60.0 / gate.per_minute for name, gate in gates.items()), default=None)


def _is_over(model: str, provider: str, catalog: Catalog, today: dt.date) -> bool:
    lifecycle = catalog.lifecycle(provider, model)
    return lifecycle is not None and lifecycle.shutdown is not None and today >= lifecycle.shutdown


def _successor(successors: Sequence[str]) -> str:
    return successors[0] if successors else "MODEL"


def _place(origin: Origin) -> str:
    return ":".join(str(part) for part in (origin.source, origin.line, origin.column) if part is not None)
