"""What the tests of the command line share: a folder with manifests, and `runner` called in it, inside and outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runner.cli.app import run_app
from tests.edges.simulator_support import Peer

KEY = "sk-desk-4f1c9a"
KEY_VARIABLE = "DESK_KEY"
GOOD = ["A lighthouse at dusk", "A bakery window"]
REFUSED = "[[fault:moderation]] something refused"
_THEIRS = ("NO_COLOR", "FORCE_COLOR", "COMETAPI_KEY", "PYTHONUNBUFFERED", "PYTHONIOENCODING")
"""What the caller's environment may have, and would change what is looked at."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a command line came to."""

    code: int
    out: str
    err: str

    @property
    def entries(self) -> list[dict[str, Any]]:
        """stdout as JSON lines; anything else on it is an error."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def summary(self) -> dict[str, Any]:
        """The last JSON line of a run."""
        last = self.entries[-1]
        assert last["type"] == "summary"
        return last


@dataclass
class Desk:
    """A user's folder, and a simulator that stands in for a provider that costs money.

    `call` runs a command inside this process, `start` and `wait` as a process of its own. Both have the same
    environment: a key, and nothing of the caller's.
    """

    folder: Path
    peer: Peer
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def __post_init__(self) -> None:
        for name in os.environ:
            if name.startswith(("RUNNER_", "OPENAI_")) or name in _THEIRS:
                self.monkeypatch.delenv(name)
        self.monkeypatch.setenv(KEY_VARIABLE, KEY)
        self.monkeypatch.chdir(self.folder)

    def manifest(self, name: str, prompts: Sequence[object], **more: object) -> str:
        """Write a manifest for small images at no particular pace; its path. Its model is one without an end."""
        manifest = {
            "name": name,
            "model": "gpt-image-2",
            "prompts": list(prompts),
            "settings": {"size": "1024x1024", "quality": "low"},
            "limits": {"images_per_minute": 1_000_000, "concurrency": 4},
            "retry": {"attempts": 2, "billed_attempts": 1, "base_s": 0.001, "max_s": 0.002},
            **more,
        }
        path = self.folder / f"{name}.yaml"
        path.write_text(json.dumps(manifest))  # JSON is YAML
        return str(path)

    @property
    def to_peer(self) -> tuple[str, ...]:
        """The options that lead to the stand-in."""
        return ("--base-url", self.peer.base_url, "--api-key-env", KEY_VARIABLE)

    def call(self, *arguments: str) -> Said:
        """One command line, in this process."""
        self.capsys.readouterr()
        code = run_app(arguments)
        out, err = self.capsys.readouterr()
        return Said(code, out, err)

    def run(self, job: str, *arguments: str) -> Said:
        """`runner run` with the stand-in."""
        return self.call("run", job, *self.to_peer, *arguments)

    def start(self, *arguments: str, **streams: Any) -> subprocess.Popen[str]:
        """One command line, in a process of its own."""
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
        return subprocess.Popen([sys.executable, "-m", "runner", *arguments], text=True, cwd=self.folder, **streams)

    def requests(self) -> int:
        """How many requests the stand-in has seen."""
        return int(self.peer.bill()["requests"])

    def files(self, folder: str = "output") -> list[Path]:
        """Every file below a folder."""
        return sorted(path for path in (self.folder / folder).rglob("*") if path.is_file())


def wait(process: subprocess.Popen[str]) -> Said:
    """A process to its end."""
    out, err = process.communicate(timeout=60)
    return Said(process.returncode, out, err)
