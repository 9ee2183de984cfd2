"""Three hosts with jobs of their own on one key of a provider that enforces its limit: how it is kept, in figures.

    python -m tests.hosts.measure --per-minute 600 --minutes 2

Half of what each job wants is wanted by the others as well. Owns the run and how its figures look; it judges nothing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.hosts.team import Team, committed_microusd, refused, servers, team, used
from tests.servers.postgres import ABSENT, programs

HOSTS = ("one", "two", "three")
SAMPLE_S = 0.25


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.hosts.measure", description="Three hosts on one key.")
    parser.add_argument("--per-minute", type=int, default=600, help="the provider's limit [600]")
    parser.add_argument("--window", type=float, default=6.0, help="the seconds over which it holds [6]")
    parser.add_argument("--minutes", type=float, default=2.0, help="about how long [2]")
    parser.add_argument("--latency", default="0.5", help="of the provider, in seconds [0.5]")
    parser.add_argument("--payload-kb", type=int, default=100, help="the size of an image [100]")
    parser.add_argument("--cap", type=float, help="the ledger's cap, in US dollars [none]")
    given = parser.parse_args()
    if programs() is None:
        parser.error(ABSENT)
    provider = {
        "latency_s": given.latency,
        "images_per_minute": given.per_minute,
        "window_s": given.window,
        "payload_kb": given.payload_kb,
    }
    with (
        tempfile.TemporaryDirectory(prefix="runner-hosts-") as folder,
        servers() as both,
        team(Path(folder), *both, **provider) as made,
    ):
        for line in _measured(made, given.per_minute, given.minutes, given.cap):
            print(line, flush=True)
    return 0


def _measured(made: Team, per_minute: int, minutes: float, cap_usd: float | None) -> list[str]:
    """Run it; what is to be said of it."""
    # Each has a half of its own, and all have the other half in common: four halves are made.
    half = round(per_minute * minutes / 4)
    if cap_usd is not None:
        made.run(HOSTS[0], ["ledger", "cap", f"{cap_usd}"])
    began = time.monotonic()
    runs = {}
    for turn, host in enumerate(HOSTS):
        own = [f"A window of host {host}, number {number}" for number in range(half)]
        shared = [f"A door that everybody wants, number {number}" for number in range(half)]
        mixed = [prompt for pair in zip(shared, own, strict=True) for prompt in pair]
        at = turn * 2 * half // 3
        wanted = mixed[at:] + mixed[:at]
        line = made.write(host, f"job-{host}", wanted, concurrency=24, per_minute=per_minute)
        runs[host] = made.start(host, line)
    samples, most = 0, 0
    while any(run.process.poll() is None for run in runs.values()):
        most = max(most, committed_microusd(made.database.snapshot()))
        samples += 1
        time.sleep(SAMPLE_S)
    took_s = time.monotonic() - began
    ended = {host: run.wait() for host, run in runs.items()}
    bill, entries, books = made.peer.bill(), made.peer.entries(), made.database.books()
    twice = sum(count - 1 for count in Counter(entry["prompt_sha256"] for entry in entries).values())
    problems = made.problems(complete=cap_usd is None)
    return [
        f"3 hosts, one key: {per_minute} images/min over any window, {took_s:.0f} s",
        f"  exits              {', '.join(f'{host} {each.code}' for host, each in ended.items())}",
        f"  requests           {bill['requests']}, {sum(bill['rejected'].values())} refused ({refused(bill):.2%})",
        f"  limit used         {used(entries, per_minute):.1%} over the middle 70 % of the images",
        f"  images             {len(entries)} of {4 * half} distinct ones, {twice} paid twice",
        f"  images of each job {', '.join(str(each.summary['done']) for each in ended.values())} of {2 * half}",
        f"  billed             {bill['cost_microusd']} microusd, settled {books.settled_microusd()}, "
        f"in doubt {books.doubt_microusd()}",
        f"  most at an instant {most} microusd settled, reserved and in doubt, in {samples} samples"
        + (f"; the cap is {round(cap_usd * 1e6)}" if cap_usd is not None else ""),
        f"  laws broken        {len(problems)}",
        *(f"    {problem}" for problem in problems[:10]),
        *(f"    {host}: {each.stderr[-400:]}" for host, each in ended.items() if each.code not in (0, 5)),
    ]


if __name__ == "__main__":
    sys.exit(main())
