"""The README's promises: every command block runs, in order, in one copy of the project's jobs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.edges.simulator_support import Peer, running

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = BLOCK.findall(README)


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    """The server that stands in for OpenAI, for the blocks that need a key."""
    with running(art="flat") as peer:
        yield peer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: the project's jobs, and nothing made yet."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "jobs", folder / "jobs")
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder / name)
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


@pytest.fixture(scope="module")
def environment(peer: Peer) -> dict[str, str]:
    """Where OpenAI's name leads to the stand-in."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "RUNNER_"))}
    scripts = str(Path(sys.executable).parent)
    return inherited | {
        "PATH": scripts + os.pathsep + inherited["PATH"],
        "OPENAI_BASE_URL": peer.base_url,
        "OPENAI_API_KEY": "sk-of-the-readme",
    }


def test_there_are_blocks() -> None:
    """The pattern finds what it is meant to find."""
    assert sum(kind == "sh" for kind, _ in BLOCKS) >= 9


@pytest.mark.parametrize("number", [i for i, (kind, _) in enumerate(BLOCKS) if kind == "sh"])
def test_every_command_block_runs(number: int, folder: Path, environment: dict[str, str]) -> None:
    """Each line of each block ends with exit code 0, in the order of the README."""
    for command in BLOCKS[number][1].strip().splitlines():
        if command.startswith("export "):
            continue  # the stand-in's own key and address are set
        if command == "make test":
            command += " --dry-run"  # this very test is part of it
        if command.startswith("make "):
            # The environment that runs this test is installed already.
            command += " --old-file=.venv/.installed --old-file=.venv/.installed-dev"
        done = subprocess.run(
            ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def test_the_python_block_runs(folder: Path, environment: dict[str, str]) -> None:
    """The Python API as the README shows it."""
    code = next(text for kind, text in BLOCKS if kind == "python")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "ab-sweep"
    assert done.stdout.split()[-1] == "0"


def test_the_yaml_blocks_are_manifests(tmp_path: Path) -> None:
    """They are valid, and want what they say: (1 + 4) prompts x 3 variants x 2, and 3 pictures x 2 motifs."""
    from runner import load, manifest

    shutil.copytree(ROOT / "jobs" / "assets", tmp_path / "assets")
    path, counts = tmp_path / "readme.yaml", []
    for text in (text for kind, text in BLOCKS if kind == "yaml"):
        path.write_text(text)
        counts.append(sum(1 for _ in manifest.expand(load(path), simulated=True)))
    assert counts == [5 * 3 * 2, 1, 3 * 2]


def test_the_exit_codes_are_those_of_the_design() -> None:
    """The README's table says nothing that the design does not say."""
    design = (ROOT / "docs" / "design.md").read_text("utf-8")
    codes = re.findall(r"^\| (\d+) \| ", README, re.MULTILINE)
    assert codes == ["0", "1", "2", "4", "5", "6", "7", "8", "130"]
    for code in codes:
        assert f"\n| {code} | " in design
