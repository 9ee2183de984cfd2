"""How long it takes until something happens: `--help`, `status`, and `run` to its first request.

Owns the commands. Beside each stands what this machine needs for `import openai`, and for starting Python at all.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median

from tests.bench.measure import Measured, run
from tests.bench.report import NO_BAR, Bar, Section
from tests.bench.server import Settings
from tests.bench.sides import Homes, Order, environment, folder, manifest, serving, stats_of

HELP = Bar(0.4, 0.2, " s")
_TURNS_A_ROUND = 3
"""They are short, and so are many."""


def measure(homes: Homes, rounds: int, tell: Callable[[str], None]) -> Section:
    """Every command in turn."""
    columns = ("from the start", "seconds", "CPU seconds", "x `import openai`", "bar", "beyond", "")
    section = Section("startup", "Start-up", columns)
    found: dict[str, list[tuple[float, Measured]]] = defaultdict(list)
    with folder(homes) as scratch, serving(Settings(image_bytes=100_000)) as url:
        job, environ = scratch / "bench.yaml", environment(scratch / "state")
        job.write_text(json.dumps(manifest(Order(10, 4))))
        runner: list[str | Path] = [homes.runner, "-m", "runner"]
        where: list[str | Path] = ["--output", scratch / "output"]
        told = ["--base-url", f"{url}/v1", "--provider", "openai", "--json", "--quiet"]
        run([*runner, "run", job, *where, *told], folder=scratch, environment=environ)
        commands: dict[str, list[str | Path]] = {
            "`runner --help`": [*runner, "--help"],
            "`runner status`, 10 tasks": [*runner, "status", *where],
            "`import openai`": [homes.runner, "-c", "import openai"],
            "`python -c pass`": [homes.runner, "-c", "pass"],
        }
        for turn in range(rounds * _TURNS_A_ROUND):
            for name, words in commands.items():
                took = run(words, folder=scratch, environment=environ)
                found[name].append((took.wall_s, took))
            with serving(Settings(image_bytes=100_000)) as fresh:
                told[1] = f"{fresh}/v1"
                output = scratch / f"output-{turn}"
                took = run([*runner, "run", job, "--output", output, *told], folder=scratch, environment=environ)
                first_s = stats_of(fresh)["first_arrival"] - took.began
                found["`runner run`, 10 tasks, to its first request"].append((first_s, took))
    openai_s = median(seconds for seconds, _ in found["`import openai`"])
    for name, turns in sorted(found.items(), key=lambda item: not item[0].startswith("`runner")):
        seconds = median(wait for wait, _ in turns)
        judged = HELP.cells(seconds) if "--help" in name else NO_BAR
        cpu = "" if "request" in name else f"{median(took.cpu_s for _, took in turns):.2f}"
        section.rows.append([name, f"{seconds:.2f}", cpu, f"{seconds / openai_s:.2f}", *judged])
        tell(f"{name}: {seconds:.2f} s")
    return section
