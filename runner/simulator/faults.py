"""Which requests go wrong, and how: rules with shares and counts, and markers in the prompt itself.

Owns the words for faults and the decision. Refuses to carry one out: refusals are `problems`, what happens to an
answer is `answers`.

A rule is `KIND[:share=0.05][,after=10][,times=3][,match=REGEX][,value=...]`: of the requests whose prompt matches, let
`after` pass, then hit this share of them, `times` at most. A marker is `[[fault:KIND]]`, `[[fault:KIND=VALUE]]`,
`[[fault:KIND*2]]` (only the first two requests of that prompt).
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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

_OPTIONS = ("share", "after", "times", "match", "value")
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
        return self.kind in REFUSALS or self.value == "unbilled"


@dataclass(slots=True)
class _Rule:
    text: str
    fault: Fault
    share: float = 1.0
    after: int = 0
    times: int | None = None
    match: re.Pattern[str] | None = None
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

    def decide(self, prompt: str) -> Verdict:
        """What happens to the next request, which has this prompt. Markers come before rules; delays add up.

        Raises:
            Problem: a marker in the prompt is not understood.
        """
        found = self._striking(prompt)
        delay_s = sum(float(fault.value or 1) for fault in found if fault.kind == "delay")
        chosen = next((fault for fault in found if fault.kind != "delay"), None)
        return Verdict(delay_s, chosen, tuple(fault.kind for fault in found))

    def _striking(self, prompt: str) -> list[Fault]:
        found: list[Fault] = []

        def settled(kind: str) -> bool:
            return kind != "delay" and any(fault.kind != "delay" for fault in found)

        for place, match in enumerate(_MARKER.finditer(prompt)):
            kind, value, times = match[1], match[2], match[3]
            try:
                fault = _fault(kind, value)
            except InputError as error:
                raise problems.invalid(f"{match[0]}: {error.message}. {error.hint}", "prompt") from None
            if settled(kind):
                continue
            if times is None or self._prompts.next((place, prompt)) < int(times):
                found.append(fault)
        for index, rule in enumerate(self._rules):
            if not settled(rule.fault.kind) and rule.strikes(prompt, self._draw_of(index)):
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
    if kind not in KINDS:
        close = difflib.get_close_matches(kind, KINDS, n=1)
        raise InputError(
            f"there is no fault {kind!r}",
            hint=f"did you mean {close[0]}?" if close else f"known: {', '.join(KINDS)}",
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
        case "delay":
            return None if number is not None else "seconds before the answer"
        case "hang" | "reset":
            return None if value == "unbilled" else "only unbilled, for an end before anything was generated"
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
                hint="KIND[:share=0.05][,after=10][,times=3][,match=REGEX][,value=...]",
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
    except (ValueError, re.error) as error:
        raise InputError(
            f"fault rule {text!r}: {error}", hint="share is 0 to 1, after and times are counts, match is a regex"
        ) from None
    if not 0 <= rule.share <= 1 or rule.after < 0 or (rule.times or 0) < 0:
        raise InputError(f"fault rule {text!r}: a figure is out of range", hint="share is 0 to 1, counts are 0 or more")
    return rule
