"""Help that helps, and that comes at once: every command and option is explained, and nothing heavy is read for it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest
import typer

from runner.cli.app import app, run_app

_TOP: dict[str, Any] = dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]  # a group has them
COMMANDS: dict[str, Any] = {name: one for name, one in _TOP.items() if not hasattr(one, "commands")} | {
    f"{name} {word}": one for name, top in _TOP.items() for word, one in getattr(top, "commands", {}).items()
}
"""Every command by its words: `run`, `ledger cap`."""
HEAVY = {"openai", "sqlalchemy", "sqlmodel", "alembic", "aiohttp", "httpx2", "PIL", "pydantic", "uvicorn", "starlette"}
_ASK = """
import contextlib, io, json, sys
from runner.cli.app import run_app
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    code = run_app(json.loads(sys.argv[1]))
print(json.dumps([code, sorted(sys.modules)]))
"""


def _modules(arguments: Sequence[str]) -> tuple[int, set[str]]:
    """The exit code of a command line in a fresh process, and the top-level modules that it has read."""
    asked = subprocess.run(
        [sys.executable, "-c", _ASK, json.dumps(arguments)], capture_output=True, text=True, check=True, timeout=60
    )
    code, names = json.loads(asked.stdout)
    return code, set(names)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help_and_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What it does, each option in words, and a line that one can type: it begins with `runner` and the command."""
    command = COMMANDS[name]
    assert command.help
    assert command.help.strip()
    assert f"runner {name}" in (command.epilog or "")
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{name}: {parameter.name} has no help"
    assert run_app([*name.split(), "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert " ".join(command.help.split()).split(".")[0] in shown
    assert "Example" in shown


def test_the_first_help_names_every_command_and_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    """`runner --help`, and `runner` alone, are where one starts."""
    assert run_app(["--help"]) == 0
    shown = capsys.readouterr().out
    for name in _TOP:
        assert f" {name} " in shown
    for code in ("0 done", "2 usage", "4 some", "5 budget", "6 provider", "7 locked", "130 interrupted"):
        assert code in " ".join(shown.split())
    assert run_app([]) in (0, 2)


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["simulate", "--help"], ["nonsense"]])
def test_help_reads_nothing_heavy(arguments: list[str]) -> None:
    """Heavy imports are lazy: neither the SDK nor the database, neither images nor a web server are read for help.

    Of runner itself only `cli` and `errors` are needed to explain a command line. (Typer reads pydantic to parse a
    command's options, but not for the list of commands.)
    """
    code, modules = _modules(arguments)
    assert code == (2 if arguments == ["nonsense"] else 0)
    assert not (HEAVY if arguments == ["--help"] else HEAVY - {"pydantic"}) & modules
    ours = {name for name in modules if name.startswith("runner.")}
    assert {".".join(name.split(".")[:2]) for name in ours} == {"runner.cli", "runner.errors"}


@pytest.mark.parametrize(
    ("arguments", "not_needed"),
    [
        (["schema"], HEAVY - {"pydantic"}),
        (["models"], HEAVY - {"pydantic"}),
        (["plan", "absent.yaml", "--output", "absent"], {"openai", "aiohttp", "httpx2", "PIL", "uvicorn", "starlette"}),
        (["status", "--output", "absent"], {"openai", "aiohttp", "httpx2", "PIL", "uvicorn", "starlette"}),
    ],
)
def test_a_command_reads_what_it_needs(arguments: list[str], not_needed: set[str]) -> None:
    """Who asks nobody needs no SDK, and who draws nothing no images."""
    _, modules = _modules(arguments)
    assert not not_needed & modules


def test_the_package_itself_is_cheap() -> None:
    """`import runner` reads next to nothing; its names arrive when they are used."""
    asked = subprocess.run(
        [sys.executable, "-c", "import json, sys, runner; print(json.dumps(sorted(sys.modules)))"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    modules = set(json.loads(asked.stdout))
    assert not (HEAVY | {"typer", "yaml", "jinja2", "anyio"}) & modules
    assert {name for name in modules if name.startswith("runner.")} == set()
