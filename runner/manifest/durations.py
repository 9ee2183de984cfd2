"""How long something is, as people write it: `90m`, `1h30m`, `45s`, or seconds.

Owns the one spelling that manifests and the command line share. Refuses to know what is timed, and how long is too long
for it: the caller says that.
"""

from __future__ import annotations

import re

from runner.manifest.problems import Wrong
from runner.manifest.tree import Written
from runner.manifest.values import kind

_UNITS_S = {"d": 86_400, "h": 3600, "m": 60, "s": 1}
_TIME = re.compile(r"(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9}(?:\.\d{1,9})?)s)?", re.ASCII)


def seconds(text: str) -> float | None:
    """How many seconds `text` means; None where it is no such time. A bare number is seconds, as for `sleep`."""
    word = text.strip().lower()
    parts = _TIME.fullmatch(word if word[-1:].isalpha() else f"{word}s")
    if parts is None:
        return None
    return sum(float(amount or 0) * unit_s for amount, unit_s in zip(parts.groups(), _UNITS_S.values(), strict=True))


def as_seconds(raw: object) -> float:
    """A duration of a manifest, in seconds.

    Raises:
        Wrong: it is none.
    """
    if isinstance(raw, (int, float)) and not isinstance(raw, bool):
        return float(raw)
    text = raw.text if isinstance(raw, Written) else raw
    found = seconds(text) if isinstance(text, str) else None
    if found is None:
        raise Wrong(f"a time is wanted, not {kind(raw)}", hint="write it like 20h, 90m or 1h30m")
    return found


def written(duration_s: float) -> str:
    """The same in words that `seconds` reads back: `20h`, `1h30m`, `2.5s`."""
    rest, words = float(duration_s), ""
    for unit in ("h", "m"):
        amount, rest = divmod(rest, _UNITS_S[unit])
        words += f"{amount:.0f}{unit}" if amount else ""
    decimals = f"{rest:.9f}".rstrip("0").rstrip(".")
    return words + (f"{decimals}s" if decimals != "0" or not words else "")
