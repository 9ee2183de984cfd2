"""Whether to go on at all: a circuit breaker over the whole run.

Owns what counts as a failure of the run, when there are too many of them, and how long everyone waits while a provider
is out of order. Refuses to look at a clock and to stop anything: the pool acts on what is said here.

A failure is a request that brought no image. "Slower" (a 429) is none, unless its task is given up over it.
"""

from __future__ import annotations

from dataclasses import dataclass

from runner.errors import ProviderError, RateLimited, Retryable, TooManyFailures, Unreached

LEAST_IN_A_ROW = 100
"""Without a limit of the user's, so many failures in a row end a run ..."""
IN_A_ROW_PER_PLACE = 4
"""... or so many for each request in flight, whichever is more: one bad moment of everyone's is no reason to end."""
OUTAGE_AFTER = 8
"""So many unbilled failures in a row are an outage of the provider, not of a task."""
LONGEST_OUTAGE_WAIT_S = 10.0
LONGEST_CUT_WAIT_S = 30.0
"""The same while the provider cannot be reached at all, and one request at a time tries."""


@dataclass(frozen=True, slots=True)
class FailureLimit:
    """What a run bears: failures in a row, and a share (0 to 1) of its tasks that end without an image.

    Both None means that it goes on to the end, whatever comes.
    """

    in_a_row: int | None = None
    share: float | None = None


def default_limit(concurrency: int) -> FailureLimit:
    """What is borne when nobody has said: enough for any bad moment, and not for a night."""
    return FailureLimit(in_a_row=max(LEAST_IN_A_ROW, IN_A_ROW_PER_PLACE * concurrency))


@dataclass(slots=True)
class Breaker:
    """Counts what comes back. `tasks` is how many the run has to do; `base_s` is the first wait of an outage."""

    limit: FailureLimit
    tasks: int
    base_s: float
    in_a_row: int = 0
    ended: int = 0
    _outage: int = 0
    _has_worked: bool = False
    _unreached: int = 0
    _waits: int = 0
    _waiting_until: float = 0.0

    def image(self) -> None:
        """An image came: whatever was wrong is over."""
        self._has_worked = True
        self.in_a_row = self._outage = self._unreached = self._waits = 0

    @property
    def is_cut_off(self) -> bool:
        """Whether a provider that has made images in this run cannot be reached any more.

        That is no task's fault, and one request at a time is enough to see when it is over. Not where a run has no
        limit of failures in a row: there it is the tasks' attempts that end it.
        """
        return self._has_worked and self._unreached >= OUTAGE_AFTER and self.limit.in_a_row is not None

    def spares(self, error: ProviderError) -> bool:
        """Whether this failure is not to be counted among the attempts of its task."""
        return isinstance(error, Unreached) and self.is_cut_off

    def failure(self, error: ProviderError, *, final: bool) -> TooManyFailures | None:
        """A request brought no image; `final` when its task ends with that. What ends the run, if it is to end."""
        self._unreached = self._unreached + 1 if isinstance(error, Unreached) else 0
        if isinstance(error, RateLimited) and not final:
            return None
        self.in_a_row += 1
        self._outage = self._outage + 1 if isinstance(error, Retryable) else 0
        self.ended += final
        reason = self._reason()
        if reason is None:
            return None
        return TooManyFailures(
            f"{reason}; the last: {error.message} ({error.code})",
            hint="what is left stays planned: mend the cause and run again, `runner retry` plans the failed ones too; "
            "--max-failures sets how much a run bears",
        )

    def wait_s(self, now: float, jitter: float) -> float:
        """How long everyone is to wait, in seconds, because the provider is out of order; 0 when it is not.

        Grows from one crowd of failures to the next, and is asked of each crowd once: those that were in flight
        together say the same thing. `now` is monotonic, `jitter` uniform in [0, 1).
        """
        if self._outage < OUTAGE_AFTER or now < self._waiting_until:
            return 0.0
        longest_s = LONGEST_CUT_WAIT_S if self.is_cut_off else LONGEST_OUTAGE_WAIT_S
        ceiling = min(longest_s, self.base_s * 2.0 ** min(self._waits, 30))
        self._waits += 1
        wait_s = ceiling * (0.5 + jitter / 2)
        self._waiting_until = now + wait_s
        return wait_s

    def _reason(self) -> str | None:
        limit = self.limit
        if limit.in_a_row is not None and self.in_a_row >= limit.in_a_row:
            plural = "s" if self.in_a_row != 1 else ""
            return f"{self.in_a_row} request{plural} in a row brought no image"
        if limit.share is not None and self.ended > limit.share * self.tasks:
            allowed = f"{limit.share * 100:g} %"
            return f"{self.ended} of the {self.tasks} images of this run could not be made, more than {allowed}"
        return None
