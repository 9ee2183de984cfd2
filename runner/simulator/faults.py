"""Which requests go wrong, and how: rules with shares and counts, and markers in the prompt itself.

Owns the words for faults and the decision. Refuses to carry one out: refusals are `problems`, what happens to an
answer is `answers`.

A rule is `KIND[:share=0.05][,after=10][,times=3][,match=REGEX][,only=online|batch][,value=...]`: of the requests whose
prompt matches, let `after` pass, then hit this share of them, `times` at most. A marker is `[[fault:KIND]]`,
`[[fault:KIND=VALUE]]`, `[[fault:KIND*2]]` (only the first two requests of that prompt).

A request for an image comes online or as a line of a batch, and each has kinds that mean nothing to the other: they are
passed over there, uncounted. Whole batches and the calls of the Files and Batch API have kinds of their own, by rules
alone; what `match` looks at is said beside them.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from runner.errors import InputError
from runner.simulator import problems
from runner.simulator.problems import Problem

REFUSALS = (
    "status",
    "rate_limit",
    "insufficient_quota",
    "billing_hard_limit",
    "invalid_api_key",
    "unverified",
    "model_not_found",
    "moderation",
    "invalid_request",
)
"""Answered instead of an image: nothing is generated, nothing billed."""
WIRE = ("hang", "stall", "cut", "reset", "reset_body")
"""The answer does not arrive whole. The image was generated and billed (unless `hang` or `reset` say `unbilled`)."""
BODY = (
    "truncated_json",
    "empty",
    "not_json",
    "bad_base64",
    "no_data",
    "not_image",
    "wrong_size",
    "wrong_format",
    "truncated_image",
    "missing_usage",
    "zero_usage",
    "escaped",
    "gzip",
    "url",
)
"""A 200 that arrives whole, and is odd. Billed."""
KINDS = (*REFUSALS, "delay", *WIRE, *BODY)
"""What can happen to a request that comes online."""
LINES = ("expired", "missing_line", "double_line", "broken_line")
"""What can happen to a line of a batch alone: it is not reached before the batch ends (as `expired` then, not billed);
it is in neither file (billed, unless `unbilled`); it is there twice; it is no JSON. `KINDS` happen to lines as well,
but for those of the wire and `gzip`. A refusal is a line of the error file; `moderation=output` is one of the other."""
BATCHES = ("batch_fails", "batch_expires", "batch_stuck", "batch_tells", "batch_hides")
"""What can happen to a whole batch; `match` looks at its metadata, as JSON. It fails in validation (value: a code, or
`CODE@LINE`); it expires when a share of it is done (value; half of it); it stays `validating`, `in_progress` (before
its first line; the default) or `finalizing` until it is cancelled or its window is over; cancelled, it tells in the
error file what was not reached; expired, it does not."""
_ACTING_CALLS = ("upload", "delete", "create", "cancel")
_LOOKING_CALLS = ("files", "file", "content", "batches", "retrieve")
CALLS = (
    *(f"{call}_{end}" for call in (*_ACTING_CALLS, *_LOOKING_CALLS) for end in ("429", "500", "reset", "hang")),
    "batches_late",
    "content_cut",
    "content_gone",
    "content_whole",
)
"""What can happen to a call; `match` looks at the file's name (`upload`), the metadata as JSON (`create`) or the id.
A call that acts has done so by the time that it goes wrong, unless the value is `before`; at a 429 it never has.
A list may lack the batches of the last seconds (value; 60). Content is cut off after a share of it (value; half of
it), is gone (404), or comes whole although a range was asked for."""
ALL_KINDS = (*KINDS, *LINES, *BATCHES, *CALLS)

Place = Literal["online", "batch"]
_MEANT_FOR: Mapping[Place, frozenset[str]] = {
    "online": frozenset(KINDS),
    "batch": frozenset((*KINDS, *LINES)) - {*WIRE, "gzip"},
}

_OPTIONS = ("share", "after", "times", "match", "only", "value")
_NEXT_OPTION = re.compile(rf",(?=(?:{'|'.join(_OPTIONS)})=)")
_MARKER = re.compile(r"\[\[fault:([a-z0-9_]+)(?:=([^*\]]*))?(?:\*(\d+))?\]\]")
_MAX_REMEMBERED = 65_536
_ABSURD_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing going wrong with one request."""

    kind: str
    value: str | None = None

    @property
    def unbilled(self) -> bool:
        """Whether it strikes before anything was generated."""
        return self.kind in REFUSALS or self.kind == "expired" or self.value == "unbilled"


@dataclass(slots=True)
class _Rule:
    text: str
    fault: Fault
    share: float = 1.0
    after: int = 0
    times: int | None = None
    match: re.Pattern[str] | None = None
    only: str | None = None
    seen: int = 0
    fired: int = 0

    def strikes(self, prompt: str, draw: Callable[[int], float]) -> bool:
        if self.match is not None and not self.match.search(prompt):
            return False
        self.seen += 1
        if self.seen <= self.after or (self.times is not None and self.fired >= self.times):
            return False
        if draw(self.seen) >= self.share:
            return False
        self.fired += 1
        return True


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to go wrong with a request: an additional delay in seconds, and at most one other fault."""

    delay_s: float = 0.0
    fault: Fault | None = None
    kinds: tuple[str, ...] = ()


class Counters:
    """How often something was seen, for the latest 65,536 different things: memory stays bounded."""

    def __init__(self) -> None:
        self._counts: OrderedDict[bytes, int] = OrderedDict()

    def next(self, thing: object) -> int:
        """0 the first time, 1 the second, ..."""
        key = hashlib.blake2b(repr(thing).encode("utf-8", "replace"), digest_size=12).digest()
        count = self._counts.pop(key, 0)
        self._counts[key] = count + 1
        if len(self._counts) > _MAX_REMEMBERED:
            self._counts.popitem(last=False)
        return count


class Faults:
    """The rules of one server. Equal seeds and equal orders of requests meet equal faults."""

    def __init__(self, seed: int, rules: Sequence[str] = ()) -> None:
        self._seed = seed
        self._rules: list[_Rule] = []
        self._prompts = Counters()
        self.replace(rules)

    def replace(self, rules: Sequence[str]) -> None:
        """Puts these rules in the place of all others.

        Raises:
            InputError: a rule is not understood; the old ones stay.
        """
        self._rules = [_parse(text) for text in rules]

    def restart(self) -> None:
        """Counts from the beginning again."""
        self.replace([rule.text for rule in self._rules])
        self._prompts = Counters()

    def describe(self) -> list[dict[str, object]]:
        """Every rule with how many requests it has seen and hit."""
        return [{"rule": rule.text, "seen": rule.seen, "fired": rule.fired} for rule in self._rules]

    def decide(self, prompt: str, place: Place = "online") -> Verdict:
        """What happens to the next request, which has this prompt. Markers come before rules; delays add up.

        Raises:
            Problem: a marker in the prompt is not understood.
        """
        found = self._striking(prompt, place)
        delay_s = sum(float(fault.value or 1) for fault in found if fault.kind == "delay")
        chosen = next((fault for fault in found if fault.kind != "delay"), None)
        return Verdict(delay_s, chosen, tuple(fault.kind for fault in found))

    def of_batch(self, metadata: str) -> dict[str, Fault]:
        """What happens to the next batch, by kind: several can."""
        found: dict[str, Fault] = {}
        for fault in self._by_rule(frozenset(BATCHES), metadata):
            found.setdefault(fault.kind, fault)
        return found

    def of_call(self, call: str, about: str) -> Fault | None:
        """What happens to the next call of the Files or Batch API (`upload`, `create`, ...)."""
        kinds = frozenset(kind for kind in CALLS if kind.partition("_")[0] == call)
        return next(self._by_rule(kinds, about), None)

    def _by_rule(self, kinds: frozenset[str], text: str) -> Iterator[Fault]:
        for index, rule in enumerate(self._rules):
            if rule.fault.kind in kinds and rule.strikes(text, self._draw_of(index)):
                yield rule.fault

    def _striking(self, prompt: str, place: Place) -> list[Fault]:
        found: list[Fault] = []

        def settled(kind: str) -> bool:
            return kind != "delay" and any(fault.kind != "delay" for fault in found)

        for position, match in enumerate(_MARKER.finditer(prompt)):
            kind, value, times = match[1], match[2], match[3]
            try:
                fault = _fault(kind, value)
            except InputError as error:
                raise problems.invalid(f"{match[0]}: {error.message}. {error.hint}", "prompt") from None
            if kind in BATCHES or kind in CALLS:
                raise problems.invalid(f"{match[0]}: no request meets this fault. Ask for it with a rule.", "prompt")
            if settled(kind) or kind not in _MEANT_FOR[place]:
                continue
            if times is None or self._prompts.next((position, prompt)) < int(times):
                found.append(fault)
        for index, rule in enumerate(self._rules):
            is_meant = rule.fault.kind in _MEANT_FOR[place] and rule.only in (None, place)
            if is_meant and not settled(rule.fault.kind) and rule.strikes(prompt, self._draw_of(index)):
                found.append(rule.fault)
        return found

    def _draw_of(self, rule: int) -> Callable[[int], float]:
        def draw(request: int) -> float:
            digest = hashlib.blake2b(f"{self._seed}/{rule}/{request}".encode(), digest_size=8).digest()
            return int.from_bytes(digest) / 2**64

        return draw


def refusal(fault: Fault, model: str) -> Problem:
    """The error that a fault of `REFUSALS` is answered with."""
    match fault.kind:
        case "status":
            return problems.of_status(int(fault.value or 500), model)
        case "rate_limit":
            named: dict[str | None, float | None] = {None: 1.0, "none": None, "absurd": _ABSURD_S}
            wait_s = named[fault.value] if fault.value in named else _number(fault.value)
            return problems.rate_limited("input-images", f"Rate limit reached for {model} (as was asked for).", wait_s)
        case "insufficient_quota":
            return problems.insufficient_quota()
        case "billing_hard_limit":
            return problems.billing_hard_limit()
        case "invalid_api_key":
            return problems.wrong_api_key()
        case "unverified":
            return problems.unverified(model)
        case "model_not_found":
            return problems.model_not_found(model)
        case "moderation":
            return problems.moderation_blocked()
        case _:
            return problems.invalid("The request is not valid (as was asked for).", "prompt")


def _fault(kind: str, value: str | None) -> Fault:
    if kind not in ALL_KINDS:
        close = difflib.get_close_matches(kind, ALL_KINDS, n=1)
        raise InputError(
            f"there is no fault {kind!r}",
            hint=f"did you mean {close[0]}?" if close else f"known: {', '.join(ALL_KINDS)}",
        )
    hint = _value_problem(kind, value)
    if value is not None and hint is not None:
        raise InputError(f"{kind} cannot have the value {value!r}", hint=hint)
    return Fault(kind, value)


def _value_problem(kind: str, value: str | None) -> str | None:
    number = _number(value)
    match kind:
        case "status":
            return None if value is not None and re.fullmatch("[45][0-9]{2}", value) else "a status from 400 to 599"
        case "rate_limit":
            known = value in ("none", "absurd") or number is not None
            return None if known else "seconds for Retry-After, or none, or absurd (a day)"
        case "delay" | "batches_late":
            return None if number is not None else "seconds, of waiting or of lateness"
        case "hang" | "reset" | "missing_line":
            return None if value == "unbilled" else "only unbilled, for an end before anything was generated"
        case "moderation":
            return None if value == "output" else "only output, for a batch's output file in place of its error file"
        case "batch_fails":
            return None if value and re.fullmatch(r"[a-z_]+(@[1-9]\d*)?", value) else "a code, or CODE@LINE"
        case "batch_stuck":
            known = value in ("validating", "in_progress", "finalizing")
            return None if known else "validating, in_progress or finalizing"
        case "batch_expires" | "content_cut":
            return None if number is not None and number <= 1 else "a share, from 0 to 1"
        case _ if kind in CALLS and kind.partition("_")[0] in _ACTING_CALLS and not kind.endswith("_429"):
            return None if value == "before" else "only before, for an end before anything was done"
        case "no_data":
            return None if value in ("missing", "empty") else "missing or empty"
        case _:
            return "this fault takes no value"


def _number(text: str | None) -> float | None:
    return float(text) if text is not None and re.fullmatch(r"\d+(\.\d+)?|\.\d+", text) else None


def _parse(text: str) -> _Rule:
    kind, _, rest = text.strip().partition(":")
    options: dict[str, str] = {}
    for part in _NEXT_OPTION.split(rest) if rest else ():
        name, equals, value = part.partition("=")
        if name not in _OPTIONS or not equals:
            raise InputError(
                f"fault rule {text!r}: {part!r} is not understood",
                hint="KIND[:share=0.05][,after=10][,times=3][,match=REGEX][,only=online|batch][,value=...]",
            )
        options[name] = value
    try:
        fault = _fault(kind, options.get("value"))
    except InputError as error:
        raise InputError(f"fault rule {text!r}: {error.message}", hint=error.hint) from None
    rule = _Rule(text, fault)
    try:
        if "share" in options:
            rule.share = float(options["share"])
        if "after" in options:
            rule.after = int(options["after"])
        if "times" in options:
            rule.times = int(options["times"])
        if "match" in options:
            rule.match = re.compile(options["match"])
        if "only" in options:
            rule.only = options["only"]
    except (ValueError, re.error) as error:
        raise InputError(
            f"fault rule {text!r}: {error}", hint="share is 0 to 1, after and times are counts, match is a regex"
        ) from None
    if not 0 <= rule.share <= 1 or rule.after < 0 or (rule.times or 0) < 0:
        raise InputError(f"fault rule {text!r}: a figure is out of range", hint="share is 0 to 1, counts are 0 or more")
    if rule.only not in (None, "online", "batch") or (rule.only and fault.kind in (*BATCHES, *CALLS)):
        raise InputError(
            f"fault rule {text!r}: only={rule.only} cannot be", hint="only is online or batch, of requests"
        )
    return rule
