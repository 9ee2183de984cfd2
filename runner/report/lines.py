"""Events as JSON lines: what `--json` prints and the log keeps.

Owns the form of a line: `type` in snake case, `time` in ISO 8601 (UTC), then the event's own fields.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from functools import cache

from runner.engine.events import Event

_CAPITAL = re.compile(r"(?<!^)(?=[A-Z])")


def line(event: Event, *, now: dt.datetime) -> str:
    """One event as one line of JSON, with its newline. `now` is aware."""
    fields: dict[str, object] = {"type": kind(event), "time": now.isoformat(timespec="milliseconds")}
    for name in event.__dataclass_fields__:
        fields[name] = getattr(event, name)
    return json.dumps(fields, ensure_ascii=True) + "\n"


def kind(event: Event) -> str:
    """The event's `type`: `AttemptFailed` is `attempt_failed`."""
    return _snake(type(event).__name__)


@cache
def _snake(name: str) -> str:
    return _CAPITAL.sub("_", name).lower()
