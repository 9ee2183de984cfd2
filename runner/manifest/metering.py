"""What a template's rendering has worked through.

Owns the meter, its bound, and what a value weighs. Refuses to know Jinja's operators and filters: `sandbox` charges for
each before it works.
"""

from __future__ import annotations

from typing import Any

from jinja2 import Undefined
from jinja2.exceptions import SecurityError

MAX_WORK_CHARS = 2_000_000
"""What one rendering may work through: characters, with a node or an element of a list at so many each."""
CHARS_A_NODE = 16
_CHARS_AN_ELEMENT = 8


class Meter:
    """What a rendering has worked through so far, in characters."""

    __slots__ = ("spent_chars",)

    def __init__(self) -> None:
        self.spent_chars = 0

    def charge(self, chars: int) -> None:
        """Count work before it is done.

        Raises:
            SecurityError: it is too much.
        """
        self.spent_chars += chars
        if self.spent_chars > MAX_WORK_CHARS:
            raise SecurityError("it works through too much text, or too long a loop")


def weight(value: Any) -> int:
    """What it takes to go through a value once, in characters."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, (list, tuple, range)):
        return _CHARS_AN_ELEMENT * len(value) + sum(len(each) for each in value if isinstance(each, str))
    return _CHARS_AN_ELEMENT


def is_plain(value: Any) -> bool:
    """Whether a value is one by itself: no list, no mapping, nothing of Jinja's but a name without a value."""
    return value is None or isinstance(value, (bool, int, float, str, Undefined))
