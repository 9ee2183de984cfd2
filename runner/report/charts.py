"""Charts of the ledger: what each day has cost, and how many images each minute of a run has brought.

Owns what is drawn and where. Refuses to know how a line gets into a file (`canvas`), and to write one. Money that was
never real has a panel of its own: it shares neither bars nor a scale with real money.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from runner.ledger import Day, Job, Ledger, Pace
from runner.report.canvas import Canvas, Png, Svg
from runner.report.minutes import bundled
from runner.rules.pricing import usd

Form = Literal["svg", "png"]
MAX_DAYS = 366
_WIDTH = 960
_MARGIN, _LEFT, _RIGHT = 32, 84, 32
_HEAD, _PLOT, _FOOT = 62, 170, 44
_MAX_BARS = 120
_MOST_TICKS = 5
_LEGEND_PX = 80
_LABEL_PX = 64
"""The room that a label below the axis takes."""
_PAPER, _INK, _QUIET, _GRID = "#ffffff", "#1c1c1e", "#6a6a70", "#e3e3e6"
_REAL, _SIMULATED, _DOUBT, _PACE = "#2f6fb7", "#8a8a93", "#e0a030", "#2e8b6f"


@dataclass(frozen=True, slots=True)
class Chart:
    """What is drawn. `first` and `last` are the days that are looked at; `job` None stands for all."""

    job: str | None
    first: dt.date
    last: dt.date
    days: tuple[Day, ...]
    pace: Pace | None


@dataclass(frozen=True, slots=True)
class _Bar:
    """One bar; `upper` stands on top of `lower`."""

    label: str
    lower: int
    upper: int
    told: str


@dataclass(frozen=True, slots=True)
class _Panel:
    title: str
    subtitle: str
    bars: Sequence[_Bar]
    colour: str
    amount: Callable[[int], str]
    legend: tuple[tuple[str, str], ...] = ()
    empty: str = ""


def chart(ledger: Ledger, job: Job | None, *, days: int, now: dt.datetime) -> Chart | None:
    """What there is to draw of the last `days` days (today among them, UTC); None if there is nothing. `now` is aware.

    The newest run that brought images is shown however long ago it was.
    """
    last = now.astimezone(dt.UTC).date()
    first = last - dt.timedelta(days=days - 1)
    spent = tuple(ledger.nights.spent_by_day(job, (first - _EPOCH).days))
    pace = ledger.nights.images_by_minute(job)
    if not spent and pace is None:
        return None
    return Chart(None if job is None else job.name, first, last, spent, pace)


def draw(what: Chart, form: Form) -> bytes:
    """The chart as a file."""
    panels = _panels(what)
    height = 2 * _MARGIN - 8 + len(panels) * (_HEAD + _PLOT + _FOOT)
    canvas: Canvas
    if form == "svg":
        canvas = Svg(_WIDTH, height, background=_PAPER, title=". ".join(panel.title for panel in panels))
    else:
        canvas = Png(_WIDTH, height, background=_PAPER)
    for number, panel in enumerate(panels):
        _draw_panel(canvas, panel, _MARGIN + number * (_HEAD + _PLOT + _FOOT))
    return canvas.done()


def ticks(highest: int, most: int = _MOST_TICKS) -> list[int]:
    """Round numbers from 0 to at least `highest`, at most `most` steps of 1, 2 or 5 times a power of ten."""
    highest = max(1, highest)
    power = 1
    while True:
        for factor in (1, 2, 5):
            step = factor * power
            if step * most >= highest:
                return [step * number for number in range(-(-highest // step) + 1)]
        power *= 10


_EPOCH = dt.date(1970, 1, 1)


def _panels(what: Chart) -> list[_Panel]:
    kinds = sorted({day.simulated for day in what.days}) or [False]
    panels = [_of_days(what, simulated=simulated) for simulated in kinds]
    return panels if what.pace is None else [*panels, _of_minutes(what.pace)]


def _of_days(what: Chart, *, simulated: bool) -> _Panel:
    chosen = {day.day: day for day in what.days if day.simulated is simulated}
    bars = []
    for number in range((what.last - what.first).days + 1):
        date = what.first + dt.timedelta(days=number)
        day = chosen.get((date - _EPOCH).days)
        cost, doubt, images = (0, 0, 0) if day is None else (day.cost_microusd, day.in_doubt_microusd, day.images)
        doubted = f", {usd(doubt)} in doubt" if doubt else ""
        bars.append(_Bar(f"{date:%b} {date.day}", cost, doubt, f"{date}: {usd(cost)}, {images:,} images{doubted}"))
    cost, doubt = sum(bar.lower for bar in bars), sum(bar.upper for bar in bars)
    images = sum(day.images for day in chosen.values())
    colour = _SIMULATED if simulated else _REAL
    parts = [f"{usd(cost)} {'would have been spent' if simulated else 'spent'}", f"{images:,} images"]
    if doubt:
        parts.append(f"{usd(doubt)} in doubt")
    whose = "all jobs" if what.job is None else what.job
    return _Panel(
        "Simulated: what each day would have cost" if simulated else "Spending per day",
        f"{', '.join(parts)}; {whose}, {what.first} to {what.last} (UTC)",
        bars,
        colour,
        usd,
        (("settled", colour), ("in doubt", _DOUBT)) if doubt else (),
        empty="nothing was spent in these days",
    )


def _of_minutes(pace: Pace) -> _Panel:
    first, last = pace.minutes[0][0], pace.minutes[-1][0]
    each, sums = bundled(pace.minutes, _MAX_BARS)
    bars = []
    for number, images in enumerate(sums):
        at = dt.datetime.fromtimestamp((first + number * each) * 60, dt.UTC)
        bars.append(_Bar(f"{at:%H:%M}", images, 0, f"{at:%Y-%m-%d %H:%M}: {images:,} images"))
    began = dt.datetime.fromtimestamp(first * 60, dt.UTC)
    total, minutes = sum(sums), last - first + 1
    what = "Images per minute" if each == 1 else f"Images per {each} minutes"
    simulated = ", simulated" if pace.simulated else ""
    return _Panel(
        f"{what} of the newest run that brought any",
        f"{pace.job}, run {pace.run_id}{simulated}: {total:,} images in {minutes:,} minute{'s' * (minutes != 1)}, "
        f"from {began:%Y-%m-%d %H:%M} (UTC)",
        bars,
        _PACE,
        lambda count: f"{count:,}",
    )


def _draw_panel(canvas: Canvas, panel: _Panel, top: float) -> None:
    canvas.text(_MARGIN, top + 12, panel.title, size=16, colour=_INK)
    canvas.text(_MARGIN, top + 32, panel.subtitle, size=12, colour=_QUIET)
    _draw_legend(canvas, panel, top + 12)
    highest = max(bar.lower + bar.upper for bar in panel.bars)
    base, width = top + _HEAD + _PLOT, _WIDTH - _LEFT - _RIGHT
    scale = ticks(highest)
    for tick in scale:
        y = base - _PLOT * tick / scale[-1]
        canvas.line(_LEFT, y, _WIDTH - _RIGHT, y, _QUIET if tick == 0 else _GRID)
        if highest or tick == 0:
            canvas.text(_LEFT - 8, y + 4, panel.amount(tick), size=11, colour=_QUIET, anchor="end")
    if not highest and panel.empty:
        canvas.text(_LEFT + width / 2, base - _PLOT / 2, panel.empty, size=13, colour=_QUIET, anchor="middle")
    room = width / len(panel.bars)
    thick = min(48.0, max(1.0, room * 0.72))
    every = max(1, -(-int(_LABEL_PX * len(panel.bars)) // width))
    for number, bar in enumerate(panel.bars):
        centre = _LEFT + room * (number + 0.5)
        below = _PLOT * bar.lower / scale[-1]
        above = _PLOT * bar.upper / scale[-1]
        left = round(centre - thick / 2, 2)
        if bar.lower:
            canvas.rect(left, round(base - below, 2), round(thick, 2), round(below, 2), panel.colour, told=bar.told)
        if bar.upper:
            y = round(base - below - above, 2)
            canvas.rect(left, y, round(thick, 2), round(above, 2), _DOUBT, told=bar.told)
        if (len(panel.bars) - 1 - number) % every == 0:
            canvas.line(centre, base, centre, base + 4, _QUIET)
            canvas.text(centre, base + 18, bar.label, size=11, colour=_QUIET, anchor="middle")


def _draw_legend(canvas: Canvas, panel: _Panel, y: float) -> None:
    for number, (name, colour) in enumerate(panel.legend):
        left = _WIDTH - _RIGHT - _LEGEND_PX * (len(panel.legend) - number)
        canvas.rect(left, y - 9, 10, 10, colour)
        canvas.text(left + 16, y, name, size=12, colour=_QUIET)
