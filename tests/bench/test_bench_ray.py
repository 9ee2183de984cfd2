"""The arithmetic of the benchmark on clusters, and that its processes' CPU time is counted when they are gone."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="Ray is not installed: python -m pip install 'runner[ray]'")

from tests.bench.part_ray import Cpu, _rate
from tests.bench.ray_nodes import Watch
from tests.edges.simulator_support import needs_proc


def test_two_runs_tell_what_each_piece_takes_and_what_a_run_takes_anyhow() -> None:
    """Ten pieces in 3 s and thirty in 5 s: 0.1 s each, and 2 s whatever there is to do."""
    found = Cpu.of(10, 3.0, 30, 5.0)
    assert (found.each_ms, found.once_s) == pytest.approx((100.0, 2.0))


def test_the_rate_is_of_what_comes_after_the_first(tmp_path: Path) -> None:
    """Four in two seconds after the first two, which came together."""
    path = tmp_path / "ledger.sqlite3"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE renditions (created_ms INTEGER)")
        connection.executemany("INSERT INTO renditions VALUES (?)", [(at,) for at in (0, 0, 500, 1000, 1500, 2000)])
        connection.commit()
    assert _rate(path) == 2.0


@needs_proc
def test_cpu_time_of_a_process_counts_when_it_is_gone() -> None:
    """Nodes do not wait for their workers: what nobody has looked at in time would be in no figure."""
    watch = Watch()
    before = watch.cpu_s()
    process = subprocess.Popen(
        [sys.executable, "-c", "x = sum(range(10**7)); print(1, flush=True); input()"], stdin=-1, stdout=-1
    )
    assert process.stdout
    process.stdout.readline()
    during = watch.cpu_s()
    process.communicate(b"\n")
    assert watch.cpu_s() >= during > before
