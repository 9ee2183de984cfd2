"""Events as JSON lines: what `--json` prints and the log keeps.

Owns the form of a line: `type` in snake case, `time` in ISO 8601 (UTC), then the event's own fields.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import re

from runner.engine.events import Event

_CAPITAL = re.compile(r"(?<!^)(?=[A-Z])")


def line(event: Event, *, now: dt.datetime) -> str:
    """One event as one line of JSON, with its newline. `now` is aware."""
    fields = {"type": kind(event), "time": now.isoformat(timespec="milliseconds"), **dataclasses.asdict(event)}
    return json.dumps(fields, ensure_ascii=True) + "\n"


def kind(event: Event) -> str:
    """The event's `type`: `AttemptFailed` is `attempt_failed`."""
    return _CAPITAL.sub("_", type(event).__name__).lower()
