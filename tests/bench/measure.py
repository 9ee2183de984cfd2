"""One command as a process of its own, and what exactly that process took.

Owns the start, the end and the figures: CPU time is what the kernel booked for that child (`wait4`), so that whoever
else works on the machine changes the seconds and not the figures.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

TIMEOUT_S = 600.0


class Failed(Exception):
    """A measured command did not end as it should have; there is no figure."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What one process took, its own children that it waited for included."""

    cpu_s: float
    peak_rss_bytes: int
    wall_s: float
    began: float
    """Just before it was started, by the machine's monotonic clock."""
    stdout: str
    code: int


def run(
    command: Sequence[str | Path],
    *,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    codes: Sequence[int] = (0,),
    timeout_s: float = TIMEOUT_S,
) -> Measured:
    """Run a command to its end; its output goes through files in `folder`, so that nobody has to read along.

    Raises:
        Failed: it ended with another code than one of `codes`, or not within `timeout_s`.
    """
    words = [str(word) for word in command]
    with (folder / "stdout").open("w+b") as out, (folder / "stderr").open("w+b") as err:
        began = time.monotonic()
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment)
        timer = threading.Timer(timeout_s, process.kill)
        timer.start()
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.monotonic() - began
        timer.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        stdout, stderr = out.read().decode(), err.read().decode()
    if process.returncode not in codes:
        tail = "\n".join((stderr + stdout).splitlines()[-15:])
        raise Failed(f"ended with {process.returncode} after {wall_s:.0f} s: {' '.join(words)}\n{tail}")
    return Measured(
        cpu_s=usage.ru_utime + usage.ru_stime,
        peak_rss_bytes=_maxrss_bytes(usage),
        wall_s=wall_s,
        began=began,
        stdout=stdout,
        code=process.returncode,
    )


def own_peak_bytes() -> int:
    """The peak of this process. A child's peak counts from that of whoever forked it, so this one must stay small."""
    return _maxrss_bytes(resource.getrusage(resource.RUSAGE_SELF))


def _maxrss_bytes(usage: resource.struct_rusage) -> int:
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
