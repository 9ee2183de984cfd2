"""Whether to try again: a decision from the error, the attempts so far, the policy and the dice.

Owns what each kind of error means for its task. Refuses to wait, to count and to send: the pool acts on the decision.
"""

from __future__ import annotations

from dataclasses import dataclass

from runner.errors import Lost, ProviderError, RateLimited, Refused, Retryable, StopRun, Unusable

MAX_HOLD_S = 600.0
"""The longest wait that a provider can ask of everyone at once; an absurd Retry-After becomes this."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How often a task is tried in one run.

    `attempts` that failed without being billed, `billed_attempts` that were or may have been billed, and
    `rate_limited_attempts` that were only told to slow down. Waits are full jitter below
    `base_s * 2 ** (failures - 1)`, at most `max_s` seconds.
    """

    attempts: int = 5
    billed_attempts: int = 3
    rate_limited_attempts: int = 50
    base_s: float = 1.0
    max_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Tally:
    """The attempts of one task in this run that ended badly, the one being judged included."""

    unbilled: int = 0
    billed: int = 0
    rate_limited: int = 0

    def plus(self, error: ProviderError) -> Tally:
        """The tally with `error` counted in."""
        match error:
            case RateLimited():
                return Tally(self.unbilled, self.billed, self.rate_limited + 1)
            case Lost() | Unusable():
                return Tally(self.unbilled, self.billed + 1, self.rate_limited)
            case _:
                return Tally(self.unbilled + 1, self.billed, self.rate_limited)


@dataclass(frozen=True, slots=True)
class TryAgain:
    """The task goes back to planned and may be begun again after `delay_s`; `hold_s` is a wait for everyone."""

    delay_s: float
    hold_s: float = 0.0


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The policy allows no further attempt in this run."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """The provider will not make this image."""


@dataclass(frozen=True, slots=True)
class Stop:
    """The whole run ends; the task stays planned."""


Decision = TryAgain | GiveUp | Refuse | Stop


def decide(error: ProviderError, tally: Tally, policy: Policy, jitter: float) -> Decision:
    """What becomes of the task whose attempt ended in `error`.

    `tally` includes this attempt, unless it is not to count; `jitter` is uniform in [0, 1).
    """
    match error:
        case StopRun():
            return Stop()
        case Refused():
            return Refuse()
        case RateLimited():
            if tally.rate_limited >= policy.rate_limited_attempts:
                return GiveUp()
            asked = error.retry_after_s
            wait = _backoff(tally.rate_limited, policy, jitter) if asked is None else min(asked, MAX_HOLD_S)
            return TryAgain(delay_s=wait, hold_s=wait)
        case Lost() | Unusable():
            if tally.billed >= policy.billed_attempts:
                return GiveUp()
            return TryAgain(delay_s=_backoff(tally.billed, policy, jitter))
        case Retryable():
            if tally.unbilled >= policy.attempts:
                return GiveUp()
            asked = 0.0 if error.retry_after_s is None else min(error.retry_after_s, MAX_HOLD_S)
            return TryAgain(delay_s=max(asked, _backoff(tally.unbilled, policy, jitter)))
        case _:
            return GiveUp()


def _backoff(failures: int, policy: Policy, jitter: float) -> float:
    """Full jitter: uniform below an exponential ceiling, in seconds."""
    ceiling = min(policy.max_s, policy.base_s * 2.0 ** min(failures - 1, 30))
    return ceiling * jitter
