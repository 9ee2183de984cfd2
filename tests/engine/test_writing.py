"""Files that commands write for their user: as a whole or not at all, and never over an image that was paid for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runner.cli.writing import replacing
from runner.errors import InputError
from tests.engine.command_support import GOOD, Desk


@pytest.mark.parametrize(
    "command",
    [("costs", "--chart"), ("report", "cards", "--to"), ("sheet", "cards", "--to")],
    ids=lambda words: words[0],
)
def test_no_slip_in_a_name_replaces_an_image(desk: Desk, command: tuple[str, ...]) -> None:
    """Law 5: whatever a command writes, it is nothing below the output folder."""
    assert desk.run(desk.manifest("cards", GOOD)).code == 0
    image = sorted((desk.folder / "output/cards/images").rglob("*.png"))[0]
    before = image.read_bytes()
    said = desk.call(*command, str(image.relative_to(desk.folder)))
    assert said.code == 2
    assert "lies in the output folder" in said.err
    assert image.read_bytes() == before


def test_a_file_is_replaced_when_the_new_one_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "night.html"
    file.write_bytes(b"old")
    with pytest.raises(ValueError, match="broke off"), replacing(file, option="--to") as stream:
        stream.write(b"half")
        raise ValueError("broke off")
    assert file.read_bytes() == b"old"
    with replacing(file, option="--to") as stream:
        stream.write(b"new")
        assert file.read_bytes() == b"old"
    assert file.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [file]


def test_a_link_leads_on_and_a_device_stays_what_it_is(tmp_path: Path) -> None:
    """What a name stands for is written, not put in its place."""
    target, link, pipe = tmp_path / "target", tmp_path / "link", tmp_path / "pipe"
    target.write_bytes(b"old")
    link.symlink_to(target)
    with replacing(link, option="--to") as stream:
        stream.write(b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with replacing(pipe, option="--to") as stream:
            stream.write(b"through")
        assert os.read(reader, 100) == b"through"
    finally:
        os.close(reader)
    assert pipe.is_fifo()


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match="cannot be written") as caught,
        replacing(tmp_path / "no/where.html", option="--to"),
    ):
        pass
    assert "--to" in str(caught.value.hint)
