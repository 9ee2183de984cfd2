"""Law 3 at random instants: SIGKILL, again and again, and not one finished image is paid twice."""

from __future__ import annotations

import hashlib
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from tests.crash.crash_support import Bench, environment, provider

TASKS, CONCURRENCY, KILLS = 180, 12, 5


def test_a_run_that_is_killed_again_and_again_pays_for_every_image_once(tmp_path: Path) -> None:
    """Whatever was done at a kill is never asked for again; what was in flight is on record, and nothing else is lost.

    The command is killed at five seeded instants, from the reading of its modules to the middle of answers, and then
    left to its end. The simulator's bill, which the runner did not write, is what its ledger and files are held to.
    """
    dice = random.Random(20261122)
    with provider(art="flat", latency_s="0.2-0.5", payload_kb=200) as peer:
        bench = Bench(tmp_path, peer, [f"A lighthouse in the style of number {number}" for number in range(TASKS)])
        command = [sys.executable, "-m", "runner", *bench.arguments(bench.write(concurrency=CONCURRENCY))]
        done_at_kill: set[str] = set()
        asked_at_kill: Counter[str] = Counter()
        began = 0
        for kill in range(KILLS):
            began += _killed(command, tmp_path, wait_for_start=kill % 3 != 0, after_s=dice.uniform(0.1, 1.1))
            done = bench.done()
            assert done >= done_at_kill
            # What was in flight at the kill is still billed by a simulator that has not noticed; what is done is not.
            billed = bench.billed()
            for prompt, count in asked_at_kill.items():
                assert billed[prompt] == count, "a finished image was asked for again"
            done_at_kill, asked_at_kill = done, _of(done, billed)
        assert 0 < len(done_at_kill) < TASKS

        last = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120)
        assert last.returncode == 0, last.stderr
        account = bench.hold_against_the_bill()
        assert all(bench.billed()[prompt] == count for prompt, count in asked_at_kill.items())
        # At most what was in flight at a kill that found requests under way.
        assert account.billed - TASKS <= account.lost <= began * CONCURRENCY
        assert max(bench.billed().values()) <= 1 + began

        again = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120)
        assert again.returncode == 0
        assert bench.hold_against_the_bill() == account, "a further run sends nothing"


def _killed(command: list[str], folder: Path, *, wait_for_start: bool, after_s: float) -> int:
    """Run until SIGKILL `after_s` after its start, or after its first request; 1 if a request had left, else 0."""
    with (folder / "killed.jsonl").open("w+b") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment(), stdout=output, stderr=subprocess.DEVNULL, bufsize=0
        )
        path = folder / "killed.jsonl"
        while wait_for_start and b'"attempt_began"' not in path.read_bytes():
            assert process.poll() is None, "it ended before it had begun"
            time.sleep(0.01)
        time.sleep(after_s)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        return int(b'"attempt_began"' in path.read_bytes())


def _of(prompts: set[str], billed: Counter[str]) -> Counter[str]:
    digests = {hashlib.sha256(prompt.encode()).hexdigest() for prompt in prompts}
    return Counter({digest: billed[digest] for digest in digests})
