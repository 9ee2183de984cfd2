"""Enrolment by itself: how long `Ledger.enrol` takes for a manifest's tasks, expansion included.

    python -m tests.bench.enrol_alone MANIFEST LEDGER

One JSON line: tasks, seconds, CPU seconds. A process of its own, so that its peak memory can be told.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from runner import Options, load
from runner.ledger import Ledger
from runner.manifest import expand


def main() -> None:
    """The command line."""
    manifest = load(sys.argv[1], Options())
    with Ledger.open(Path(sys.argv[2]), create=True) as ledger:
        job = ledger.make_job(manifest.name, manifest_path=None, now_ms=0)
        began, cpu = time.monotonic(), time.process_time()
        job = ledger.enrol(job, expand(manifest, simulated=False), digest=manifest.digest(simulated=False))
        told = {"tasks": job.wanted, "wall_s": time.monotonic() - began, "cpu_s": time.process_time() - cpu}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
