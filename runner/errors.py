"""What can go wrong, ordered by how far it reaches.

Owns the hierarchy of errors and the exit code of each. Refuses to know who raises them: the only module that
turns the SDK's exceptions into these is `provider`, and the only place that prints them is `cli`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one answer, as the provider sent them (all counts are tokens)."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_text_tokens: int
    input_image_tokens: int
    cached_text_tokens: int = 0
    cached_image_tokens: int = 0

    @property
    def is_told(self) -> bool:
        """Whether these figures can be billed from: a gateway that sends zeros has told nothing."""
        return self.output_tokens > 0


class RunnerError(Exception):
    """Anything a user can meet. `hint` says what to do next."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[Callable[..., RunnerError], tuple[object, ...]]:
        # What Python does by itself gives the words only, and an error that comes from another process has more.
        return _again, (type(self), self.args, self.__dict__)


def _again(kind: type[RunnerError], args: tuple[object, ...], fields: dict[str, object]) -> RunnerError:
    """An error as it was in the process that it comes from."""
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(fields)
    return error


class InputError(RunnerError):
    """What the user gave cannot be used; nothing was sent."""

    exit_code = 2


class ManifestError(InputError):
    """A manifest, or a file that it names, is not valid. Lines and columns count from 1."""

    def __init__(
        self,
        message: str,
        *,
        source: str,
        line: int | None = None,
        column: int | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.source = source
        self.line = line
        self.column = column

    @property
    def place(self) -> str:
        """`file:line:column`, as far as it is known."""
        parts = [self.source]
        if self.line is not None:
            parts.append(str(self.line))
            if self.column is not None:
                parts.append(str(self.column))
        return ":".join(parts)

    def __str__(self) -> str:
        return f"{self.place}: {super().__str__()}"


class BudgetExceeded(RunnerError):
    """The next request could pass the cap, and nothing in flight can free any of it."""

    exit_code = 5


class TooManyFailures(RunnerError):
    """So many requests brought no image that going on would waste the night: the run ended itself."""

    exit_code = 4


class TimeLimit(RunnerError):
    """The time that this run was given is over."""

    exit_code = 8


class Locked(RunnerError):
    """Another run holds this job."""

    exit_code = 7


class LedgerError(RunnerError):
    """The ledger cannot be read or written, or it contradicts what was asked of it."""


class StoreError(RunnerError):
    """A file cannot be written, or is not what it should be (a full disk among them)."""


class ProviderError(RunnerError):
    """One attempt did not end in an image.

    `code` is the provider's own word (or ours, where it sent none), `http_status` the status if there was an answer.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str,
        http_status: int | None = None,
        request_id: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.code = code
        self.http_status = http_status
        self.request_id = request_id


class Retryable(ProviderError):
    """This attempt failed and was not billed; another may succeed. `retry_after_s` is what the provider asked for."""

    def __init__(
        self,
        message: str,
        *,
        code: str,
        http_status: int | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, code=code, http_status=http_status, request_id=request_id)
        self.retry_after_s = retry_after_s


class Unreached(Retryable):
    """The request never left, for the provider could not be reached: it says nothing about the task."""


class RateLimited(Retryable):
    """A 429 that means "slower": it says nothing about the task, only about the pace of everyone."""


class Lost(ProviderError):
    """The request left and no whole answer came back: the provider may have billed it."""


class Expired(ProviderError):
    """A batch ended before this request's turn: nothing was made, and nothing is billed."""


class Unusable(ProviderError):
    """A 200 without a usable image. It was billed: `usage` has the figures if the answer told them."""

    def __init__(
        self,
        message: str,
        *,
        code: str,
        http_status: int | None = 200,
        request_id: str | None = None,
        usage: Usage | None = None,
    ) -> None:
        super().__init__(message, code=code, http_status=http_status, request_id=request_id)
        self.usage = usage


class Refused(ProviderError):
    """The provider will not make this image, now or later: moderation, or a request that is not valid."""


class StopRun(ProviderError):
    """No request of this run can succeed: key, quota, billing limit, unverified organisation."""

    exit_code = 6


class ModelGone(StopRun):
    """The model is not served (any more). The one stop that `fallback_model` can answer."""


def innermost(error: BaseException) -> BaseException:
    """What went wrong first, out of the groups that concurrent tasks end in."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
