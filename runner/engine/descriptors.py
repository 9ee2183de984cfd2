"""How many files this process may have open.

Owns the limit of the operating system. Refuses to know what is opened.
"""

from __future__ import annotations

import resource


def descriptors(needed: int) -> int:
    """How many files this process may have open; the limit is raised to what is needed as far as that is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return needed
    wanted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        return soft
    return wanted
