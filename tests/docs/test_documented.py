"""Documentation that fails when it falls behind: every command, option, error, status and event is written down."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
import typer

from runner import errors
from runner.cli.app import app
from runner.tasks import TRANSITIONS, Event, Status

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = (ROOT / "docs" / "commands.md").read_text("utf-8")
DESIGN = (ROOT / "docs" / "design.md").read_text("utf-8")
TESTING = (ROOT / "docs" / "testing.md").read_text("utf-8")


def _commands() -> dict[str, typer.core.TyperCommand]:
    """Every command by its words: `run`, `ledger cap`."""
    found: dict[str, typer.core.TyperCommand] = {}
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]  # a group has them
        below = getattr(command, "commands", None)
        found |= {name: command} if below is None else {f"{name} {word}": one for word, one in below.items()}
    return found


@pytest.mark.parametrize("name", sorted(_commands()))
def test_every_command_and_option_is_documented(name: str) -> None:
    """`docs/commands.md` has a section for each command, and names each of its options there."""
    section = re.search(rf"^## `runner {name}`$(.*?)(?=^## |\Z)", COMMANDS, re.MULTILINE | re.DOTALL)
    assert section is not None, f"no section for {name}"
    for parameter in _commands()[name].params:
        if parameter.param_type_name == "option" and parameter.name != "help":
            assert f"`{parameter.opts[0]}" in section.group(1), f"{name} {parameter.opts[0]}"


def test_no_command_is_documented_that_does_not_exist() -> None:
    """A section without a command would send its reader into an error."""
    assert set(re.findall(r"^## `runner ([^`]+)`$", COMMANDS, re.MULTILINE)) == set(_commands())


def test_every_error_is_in_the_design() -> None:
    """Every class of `errors.py` is named in the design's tables."""
    for name, value in vars(errors).items():
        if inspect.isclass(value) and issubclass(value, Exception):
            assert f"`{name}`" in DESIGN, name


def test_every_status_and_event_is_in_the_design() -> None:
    """The drawing of a task's life has every status, and every move of the table."""
    for status in Status:
        assert f"`{status}`" in DESIGN, status
    for event in Event:
        assert f"`{event}`" in DESIGN, event
    moves = 0
    for line in DESIGN.splitlines():
        row = re.match(r"\| (`[a-z_`, ]+`) \| (.*->.*) \|$", line)
        if row is None or "event -> to" in line:
            continue
        for event, to in re.findall(r"`(\w+)` -> (\w+)", row.group(2)):
            for status in re.findall(r"\w+", row.group(1)):
                assert TRANSITIONS[Status(status), Event(event)] == Status(to)
                moves += 1
    assert moves == len(TRANSITIONS)


def test_every_law_names_a_test_that_exists() -> None:
    """`docs/testing.md` names, for each of the ten laws, tests that are really there."""
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", TESTING, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 11))
    for number, tests in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", tests)
        assert named or number == "10", number
        for path, test in named:
            assert f"def {test}(" in (ROOT / path).read_text("utf-8"), f"{path}::{test}"
