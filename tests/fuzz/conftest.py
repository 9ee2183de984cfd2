"""The profile for a long search: `make fuzz`, or `pytest tests/fuzz --hypothesis-profile=long`."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("long", print_blob=True)
