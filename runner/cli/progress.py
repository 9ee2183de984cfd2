"""What a run looks like while it goes: a bar in a terminal, a line every so often elsewhere.

Owns tqdm. It hears the same events as `--json` and the log, and knows nothing else.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from runner.cli import console
from runner.engine import events
from runner.rules.pricing import usd

if TYPE_CHECKING:
    from tqdm import tqdm

LINE_EVERY_S = 30.0
RATE_WINDOW_S = 60.0
LONG_WAIT_S = 5.0
"""A wait of everyone's that is worth a word."""


class Progress:
    """Listens to a run's events and shows them on stderr."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None
        self._began: events.RunBegan | None = None
        self._recent: deque[float] = deque()
        self._made = self._bad = self._in_flight = 0
        self._spent = self._doubt = 0
        self._since = self._spoke = time.monotonic()
        self._told_wait = -LINE_EVERY_S
        self._adopted = self._reused = self._found = 0
        self._completed: dict[int, int] = {}
        """Of each batch that is under way: what the provider has completed, and has not come home yet."""

    def __call__(self, event: events.Event) -> None:
        """Take one event."""
        match event:
            case events.RunBegan():
                self._begin(event)
            case events.AttemptBegan():
                self._in_flight += 1
            case events.Saved():
                self._saved(event)
            case events.AttemptFailed():
                self._in_flight -= event.batch is None
                self._spent += event.cost_microusd
                self._doubt += event.in_doubt_microusd
                if event.retry_in_s is None and event.status != "planned":
                    self._bad += 1
                    self._say(
                        f"{event.status}: {console.safe(event.name)}: {console.safe(event.message)} ({event.code})"
                    )
            case events.Held() if event.wait_s >= LONG_WAIT_S and time.monotonic() - self._told_wait >= LINE_EVERY_S:
                self._told_wait = time.monotonic()
                why = "the provider is failing, everyone waits" if event.outage else "the provider asks to wait"
                self._say(f"{why} {console.duration(event.wait_s)}: {console.safe(event.message)}")
            case events.Warned():
                self._say(f"{console.paint('warning:', 'yellow', sys.stderr)} {console.safe(event.message)}")
            case events.Stopping():
                what = "given up, on record as in doubt" if event.immediate else "finished first"
                rest = f"{event.in_flight} in flight are {what}" if event.in_flight else "nothing is in flight"
                self._say(f"stopping ({event.reason}): {rest}")
            case events.BatchSubmitted() | events.BatchWaits() | events.BatchCollected() | events.BatchNotRun():
                self._batch(event)
            case events.FoundInDoubt():
                self._found += 1
            case events.Adopted():
                self._adopted += 1
            case events.Reused():
                self._reused += 1
            case events.Summary():
                self._end()
            case _:
                pass
        self._show(heartbeat=isinstance(event, events.Heartbeat))

    def _saved(self, event: events.Saved) -> None:
        self._made += 1
        self._spent += event.cost_microusd
        self._recent.append(time.monotonic())
        if event.batch is None:
            self._in_flight -= 1
        else:
            self._completed[event.batch] = max(0, self._completed.get(event.batch, 0) - 1)
        self._move()

    def _batch(
        self, event: events.BatchSubmitted | events.BatchWaits | events.BatchCollected | events.BatchNotRun
    ) -> None:
        name = f"batch {event.batch}"
        match event:
            case events.BatchSubmitted():
                how = "found again at the provider" if event.found else "submitted"
                until = f", by {event.expires} at the latest" if event.expires else ""
                self._say(f"{name} {how}: {event.requests} requests for {event.model}{until}")
                self._completed[event.batch] = 0
            case events.BatchWaits():
                self._completed[event.batch] = event.completed
            case events.BatchCollected():
                self._completed.pop(event.batch, None)
                bad = ", ".join(
                    f"{count} {what}"
                    for count, what in (
                        (event.refused, "refused"),
                        (event.failed, "failed"),
                        (event.planned, "not made, planned again"),
                        (event.in_doubt, "in doubt"),
                    )
                    if count
                )
                self._say(f"{name} {event.status}: {event.saved} images{', ' + bad if bad else ''}")
            case events.BatchNotRun():
                self._completed.pop(event.batch, None)
                self._say(f"{name} was not run ({event.code}: {console.safe(event.message)})")
        self._move()

    def _move(self) -> None:
        """Bring the bar to what is made, here or at the provider."""
        if self._bar is not None:
            self._bar.update(self._made + sum(self._completed.values()) - self._bar.n)

    def _begin(self, event: events.RunBegan) -> None:
        self._began = event
        self._spent, self._doubt = event.committed_microusd, 0
        for count, what in (
            (self._adopted, "images that an earlier run had received were taken over"),
            (self._found, "requests of an earlier run are in doubt: possibly billed"),
            (self._reused, "images were taken over from other jobs, free"),
        ):
            if count:
                console.note(f"{count} {what}")
        if event.to_do + event.submitted and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=event.to_do + event.submitted,
                desc=event.job[:24],
                unit="img",
                file=sys.stderr,
                dynamic_ncols=True,
                bar_format="{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}",
                mininterval=0.1,
            )
        elif event.delivery == "batch" or event.submitted:
            console.note(
                f"{event.job}: {event.to_do} images to submit to {event.provider}, {event.submitted} submitted before"
            )
        elif event.to_do:
            limit = "" if event.images_per_minute is None else f", at most {event.images_per_minute:g} a minute"
            console.note(f"{event.job}: {event.to_do} images to make with {event.provider}{limit}")

    def _show(self, *, heartbeat: bool) -> None:
        if self._began is None:
            return
        if self._bar is not None:
            self._bar.set_postfix_str(self._state(), refresh=heartbeat)
            return
        to_do = self._began.to_do + self._began.submitted
        made = self._made + sum(self._completed.values())
        if time.monotonic() - self._spoke >= LINE_EVERY_S and made < to_do:
            self._spoke = time.monotonic()
            console.note(f"{self._began.job}: {made}/{to_do}, {self._state()}")

    def _state(self) -> str:
        began = self._began
        if began is None:
            return ""
        now = time.monotonic()
        while self._recent and self._recent[0] < now - RATE_WINDOW_S:
            self._recent.popleft()
        window_s = min(RATE_WINDOW_S, max(now - self._since, 1.0))
        per_minute = len(self._recent) * 60.0 / window_s
        allowed = began.images_per_minute
        rate = f"{per_minute:.0f}/min" if allowed is None else f"{per_minute:.0f} of {allowed:g}/min"
        money = usd(self._spent) + ("" if began.cap_microusd is None else f" of {usd(began.cap_microusd)}")
        parts = [rate, f"{self._in_flight} in flight", money + (" simulated" if began.simulated else "")]
        if self._completed:
            waiting = f"{len(self._completed)} batch{'es' if len(self._completed) > 1 else ''} under way"
            parts = [waiting, *parts[2:]] if not self._in_flight else [waiting, *parts]
        if self._doubt:
            parts.append(f"{usd(self._doubt)} in doubt")
        if self._bad:
            parts.append(f"{self._bad} not made")
        if self._completed:
            return ", ".join(parts)  # nobody knows how long that takes
        left = began.to_do - self._made - self._bad
        speed = min(per_minute, allowed) if allowed is not None and per_minute else per_minute
        if not speed and now - self._since < RATE_WINDOW_S:
            speed = allowed or 0.0  # nothing has come back yet; later, nothing coming back is no speed
        if left > 0 and speed:
            parts.append(f"{console.duration(left * 60.0 / speed)} left")
        return ", ".join(parts)

    def _say(self, text: str) -> None:
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            console.note(text)

    def _end(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        self._began = None


class Checking:
    """How far a check of files has come: the same bar, and the same line every so often elsewhere."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._bar: tqdm[Any] | None = None
        self._job = ""
        self._total = self._done = 0
        self._spoke = time.monotonic()

    def begin(self, job: str, files: int) -> None:
        """So many files of a job are looked at next."""
        self.end()
        self._job, self._total, self._done = console.safe(job), files, 0
        if files and not self._quiet and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=files,
                desc=self._job[:24],
                unit="file",
                file=sys.stderr,
                dynamic_ncols=True,
                leave=False,
                bar_format="{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {rate_fmt}, {remaining} left",
                mininterval=0.1,
            )

    def step(self) -> None:
        """One file was looked at."""
        self._done += 1
        if self._bar is not None:
            self._bar.update()
        elif not self._quiet and time.monotonic() - self._spoke >= LINE_EVERY_S:
            self._spoke = time.monotonic()
            console.note(f"{self._job}: {self._done}/{self._total} files checked")

    def out(self, text: str) -> None:
        """A line of the result, past the bar."""
        if self._bar is not None:
            self._bar.clear()
        console.raw(text + "\n")

    def end(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class RenderingProgress:
    """Listens while renditions are made by themselves; a bar in a terminal, a line every so often elsewhere."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._bar: tqdm[Any] | None = None
        self._images = self._made = 0
        self._spoke = time.monotonic()

    def __call__(self, event: events.Event) -> None:
        """Take one event."""
        match event:
            case events.RenderingBegan() if event.images and not self._quiet:
                self._begin(event)
            case events.Rendered():
                self._made += 1
                self._show()
            case events.Warned():
                if self._bar is not None:
                    self._bar.clear()
                console.warn(event.message)
            case _:
                pass

    def _begin(self, event: events.RenderingBegan) -> None:
        self._images, self._made = event.images, 0
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=event.images, desc=event.job[:24], unit="img", file=sys.stderr, dynamic_ncols=True, leave=False
            )

    def _show(self) -> None:
        if self._bar is not None:
            self._bar.update(1)
            if self._made >= self._images:
                self._bar.close()
                self._bar = None
        elif self._images and time.monotonic() - self._spoke >= LINE_EVERY_S:
            self._spoke = time.monotonic()
            console.note(f"renditions of {self._made} of {self._images} images are made")


class Warnings:
    """What is still said with `--quiet`: warnings alone."""

    def __call__(self, event: events.Event) -> None:
        """Take one event."""
        if isinstance(event, events.Warned):
            console.warn(event.message)
