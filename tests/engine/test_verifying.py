"""`runner verify` through the command line: what it finds, what it mends, and what it never touches."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sqlite3
import struct
import sys
import zlib
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from runner import Options, plan
from runner.ledger import Ledger
from runner.rules.pricing import usd
from tests.engine.command_support import GOOD, KEY_VARIABLE, Desk, Said, wait

THREE = [*GOOD, "A market at noon"]


def made(desk: Desk, name: str = "shop", prompts: Sequence[object] | None = None, **more: object) -> str:
    """A job with all of its images; its manifest's path."""
    job = desk.manifest(name, prompts or THREE, **more)
    assert desk.run(job, "--quiet").code == 0
    return job


def images(desk: Desk, job: str = "shop", folder: str = "images") -> list[Path]:
    """A job's files, by name."""
    return sorted(path for path in (desk.folder / "output" / job / folder).rglob("*") if not path.is_dir())


def verify(desk: Desk, *arguments: str) -> Said:
    """`runner verify --json`."""
    return desk.call("verify", *arguments, "--json", "--quiet")


def problems(said: Said) -> list[tuple[str, str | None]]:
    """Kind and path of each problem, sorted."""
    found = [(entry["kind"], entry["path"]) for entry in said.entries if entry["type"] == "problem"]
    return sorted(found, key=str)


def verdict(said: Said) -> dict[str, Any]:
    """The last line, which says the exit code as well."""
    last = said.entries[-1]
    assert last["type"] == "verify"
    assert last["exit_code"] == said.code
    return last


def actions(said: Said) -> list[tuple[str, str]]:
    """What was repaired, and where."""
    return sorted((entry["action"], entry["path"]) for entry in said.entries if entry["type"] == "repair")


def on_record(path: Path) -> str:
    """A file's path as the ledger has it."""
    return path.relative_to(Path.cwd() / "output").as_posix()


def rows(desk: Desk, query: str, *values: object) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(desk.folder / "output" / "ledger.sqlite3")) as database:
        return database.execute(query, values).fetchall()


def change(desk: Desk, statement: str, *values: object) -> None:
    """What only a fault or a stranger does to a ledger."""
    with closing(sqlite3.connect(desk.folder / "output" / "ledger.sqlite3")) as database, database:
        assert database.execute(statement, values).rowcount > 0


def tree(desk: Desk) -> dict[str, bytes | str]:
    """Every file of the jobs with its bytes, every link with its target; without locks and the ledger."""
    return {
        str(path): str(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in sorted((desk.folder / "output").rglob("*"))
        if (path.is_file() or path.is_symlink())
        and not (path.suffix == ".lock" or path.name.startswith((".lock", "ledger.sqlite3")))
    }


def accounts(desk: Desk) -> list[tuple[Any, ...]]:
    """Everything that money is computed from."""
    return rows(desk, "SELECT id, task_id, outcome, reserved_microusd, cost_microusd, doubt_microusd FROM attempts")


def spent(desk: Desk) -> tuple[int, int]:
    """What the stand-in has billed, and what the ledger says; micro-dollars."""
    (total,) = rows(desk, "SELECT sum(cost_microusd) FROM attempts")
    return desk.peer.bill()["cost_microusd"], total[0]


class Terminal:
    """Someone at a terminal who types an answer, after doing something else perhaps."""

    def __init__(self, answer: str, before: Callable[[], object] = lambda: None) -> None:
        self._answer = answer
        self._before = before

    def isatty(self) -> bool:
        return True

    def readline(self) -> str:
        self._before()
        return self._answer


# -- finding ------------------------------------------------------------------------------------------


def test_what_is_all_right_is_0_and_nothing_is_changed(desk: Desk) -> None:
    """Every image of every job is counted, and neither a file nor a record is another afterwards."""
    made(desk)
    made(desk, "second", ["A ferry in fog"])
    before, records = tree(desk), rows(desk, "SELECT * FROM assets")
    for arguments in ((), ("shop",), ("shop.yaml", "--deep"), ("--repair",)):
        said = verify(desk, *arguments)
        assert said.code == 0, said
        last = verdict(said)
        assert last["good"] == last["assets"] == (3 if any("shop" in word for word in arguments) else 4)
        assert len(said.entries) == 1
        assert tree(desk) == before
    assert rows(desk, "SELECT * FROM assets") == records
    plain = desk.call("verify", "shop")
    assert "3 of 3 images are there and right" in plain.out


def _unlink(path: Path) -> None:
    path.unlink()


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def _link(path: Path) -> None:
    elsewhere = path.parents[3] / "kept.png"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def _dangle(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("damage", "kind", "words"),
    [
        (_unlink, "missing", "no file"),
        (_folder, "missing", "folder"),
        (_pipe, "missing", "not a file"),
        (_flip, "changed", "hash"),
        (_truncate, "changed", "size"),
        (_lengthen, "changed", "size"),
        (_link, "changed", "symbolic link"),
        (_dangle, "changed", "symbolic link"),
    ],
)
def test_each_kind_of_damage_is_found_and_is_4(desk: Desk, damage: Any, kind: str, words: str) -> None:
    """The one image that is not as it is on record is named with its path, task and hash; the others are right."""
    made(desk)
    victim = images(desk)[1]
    digest = hashlib.sha256(victim.read_bytes()).hexdigest()
    damage(victim)
    said = verify(desk, "shop")
    assert said.code == 4
    (entry,) = [entry for entry in said.entries if entry["type"] == "problem" and entry["kind"] == kind]
    assert (entry["path"], entry["job"], entry["sha256"]) == (on_record(victim), "shop", digest)
    assert entry["path"].endswith(f"images/{entry['task']}")
    assert words in entry["detail"]
    last = verdict(said)
    assert (last["assets"], last["good"], last[kind]) == (3, 2, 1)
    shown = desk.call("verify", "shop", "--quiet")
    assert shown.code == 4
    assert on_record(victim) in shown.out
    assert "2 of 3 images are there and right" in shown.out


def test_a_folder_that_is_a_symbolic_link_is_not_walked_into(desk: Desk) -> None:
    """Images behind a link in the job's folder count as changed, and what lies behind it is not looked through."""
    made(desk, output={"name": "{{ prompt_id }}/picture"})
    inside = images(desk)[0].parent
    elsewhere = desk.folder / "elsewhere"
    shutil.move(inside, elsewhere)
    (elsewhere / "private.txt").write_text("of no concern")
    inside.symlink_to(elsewhere, target_is_directory=True)
    said = verify(desk, "shop")
    assert problems(said) == [
        ("changed", on_record(inside / "picture.png")),
        ("unknown", on_record(inside)),
    ]
    assert said.code == 4


def test_a_file_that_cannot_be_read_is_told_apart_from_one_that_is_gone(desk: Desk) -> None:
    """What the system refuses to open is neither missing nor changed, and is never planned again."""
    made(desk)
    path = f"shop/images/{'x' * 300}.png"
    change(desk, "UPDATE assets SET path = ? WHERE id = 1", path)
    said = verify(desk, "shop", "--repair", "--yes")
    assert ("unreadable", path) in problems(said)
    assert said.code == 4
    assert actions(said) == []


def test_files_that_nobody_knows_are_told_and_left_and_are_0(desk: Desk) -> None:
    """In `images`, below it and in `superseded`; files, links and pipes; with a name that is no UTF-8 as well."""
    made(desk)
    folder = desk.folder / "output" / "shop"
    (folder / "superseded").mkdir()
    (folder / "images" / "deep").mkdir()
    strangers = [folder / "images" / "notes.txt", folder / "images" / "deep" / "a.png", folder / "superseded" / "b.png"]
    for path in strangers:
        path.write_text("mine")
    (folder / "images" / "link").symlink_to(strangers[0])
    os.mkfifo(folder / "images" / "pipe")
    odd = os.fsdecode(b"caf\xe9.png")
    (folder / "images" / odd).write_text("mine")
    before = tree(desk)
    for arguments in (("shop",), ("shop", "--repair", "--yes")):
        said = verify(desk, *arguments)
        assert said.code == 0
        assert verdict(said)["unknown"] == 6
        assert {path for _, path in problems(said)} == {
            *(on_record(path) for path in strangers),
            "shop/images/link",
            "shop/images/pipe",
            f"shop/images/{odd}",
        }
    assert tree(desk) == before
    assert desk.call("verify", "shop").code == 0


def test_temporary_files_are_the_next_runs_and_no_error(desk: Desk) -> None:
    """They are told by themselves once no run holds the job, and not at all while one is at work."""
    made(desk)
    left = desk.folder / "output" / "shop" / ".partial" / "77.part"
    left.write_bytes(b"half")
    said = verify(desk, "shop")
    assert (said.code, problems(said)) == (0, [("temporary", "shop/.partial/77.part")])
    change(desk, "UPDATE runs SET ended_ms = NULL, exit_code = NULL, pid = ?", os.getpid())
    assert problems(verify(desk, "shop")) == []
    assert left.exists()


def test_what_a_run_is_about_to_record_is_not_unknown(desk: Desk) -> None:
    """A file without a record is a run's own business while that is at work, but only if it is new."""
    made(desk)
    young, old = (desk.folder / "output" / "shop" / "images" / name for name in ("young.png", "old.png"))
    young.write_bytes(b"just placed")
    old.write_bytes(b"lay here")
    assert len(problems(verify(desk, "shop"))) == 2
    change(desk, "UPDATE runs SET ended_ms = NULL, exit_code = NULL, pid = ?", os.getpid())
    assert problems(verify(desk, "shop")) == []
    # Of a run on another machine nobody knows whether it is alive.
    change(desk, "UPDATE runs SET host = 'elsewhere', pid = 2147483647")
    assert problems(verify(desk, "shop")) == []
    change(desk, "UPDATE runs SET host = ?", os.uname().nodename)
    assert len(problems(verify(desk, "shop"))) == 2


def test_an_image_that_was_received_and_not_yet_recorded_is_not_unknown(desk: Desk) -> None:
    """Its attempt names the path before the file has it, whether the run is alive or not."""
    made(desk)
    path = images(desk)[0]
    change(desk, "DELETE FROM assets WHERE path = ?", on_record(path))
    assert ("unknown", on_record(path)) in problems(verify(desk, "shop"))
    change(
        desk,
        "UPDATE attempts SET outcome = NULL, ended_ms = NULL WHERE received_path = ?",
        on_record(path),
    )
    assert ("unknown", on_record(path)) not in problems(verify(desk, "shop"))


def test_a_run_that_goes_on_is_no_problem(desk: Desk) -> None:
    """From its first image to its last, a look at the job finds nothing wrong, and does not keep the run from it."""
    job = desk.manifest("busy", [f"[[fault:delay=0.05]] picture {n}" for n in range(40)], retry={"base_s": 0.01})
    run = desk.start("run", job, *desk.to_peer, "--json")
    assert run.stdout
    while '"attempt_began"' not in run.stdout.readline():
        pass
    looks = 0
    while run.poll() is None and looks < 200:
        said = verify(desk, "busy")
        assert (said.code, problems(said)) == (0, []), said
        looks += 1
        if looks == 1:
            locked = verify(desk, "busy", "--repair", "--yes")
            assert locked.code in (0, 7)
            assert locked.code == 7 or run.poll() is not None
    assert looks
    assert wait(run).code == 0
    assert verdict(verify(desk, "busy"))["good"] == 40


def test_an_image_under_its_new_name_that_no_one_could_record_is_not_missing(desk: Desk) -> None:
    """A run that dies between moving a file and recording that has lost nothing: the next one records it."""
    job = made(desk)
    path = images(desk)[0]
    aside = path.with_name("earlier-name.png")
    change(desk, "UPDATE assets SET path = ? WHERE path = ?", on_record(aside), on_record(path))
    change(desk, "UPDATE jobs SET tidied_revision = 0")  # as it is until the last has been moved
    said = verify(desk, "shop")
    assert said.code == 0
    assert [kind for kind, _ in problems(said)] == ["unknown"]
    assert desk.run(job, "--json").summary["requests"] == 0
    assert problems(verify(desk, "shop")) == []


def test_lines_are_bounded_and_safe_and_json_has_all_of_them(desk: Desk) -> None:
    """20 lines of a kind, then how many more there are; escape sequences never reach the terminal."""
    made(desk)
    for number in range(30):
        (desk.folder / "output" / "shop" / "images" / f"stray-{number}\x1b[31m").write_text("x")
    plain = desk.call("verify", "shop")
    assert len(re.findall(r"^unknown .*stray", plain.out, re.MULTILINE)) == 20
    assert re.search(r"^unknown +and 10 more", plain.out, re.MULTILINE)
    assert "\x1b" not in plain.out
    assert len(problems(verify(desk, "shop"))) == 30


# -- what the images are ------------------------------------------------------------------------------


def put(desk: Desk, path: Path, data: bytes, **more: object) -> None:
    """Other bytes, and a record that agrees with them."""
    path.write_bytes(data)
    values = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), **more}
    names = ", ".join(f"{name} = ?" for name in values)
    change(desk, f"UPDATE assets SET {names} WHERE path = ?", *values.values(), on_record(path))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int) -> bytes:
    """A small PNG that unpacks to a large picture."""
    packer = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def test_deep_finds_what_no_hash_can(desk: Desk) -> None:
    """Bytes that are those on record and no image, half an image, another size, another format, or a bomb."""
    made(desk, prompts=[f"Picture {n}" for n in range(6)])
    files = images(desk)
    whole = files[0].read_bytes()
    put(desk, files[1], b"these are words")
    put(desk, files[2], whole[: len(whole) // 2])
    put(desk, files[3], whole, width=512)
    put(desk, files[4], whole, format="jpeg")
    put(desk, files[5], bomb(20_000, 20_000), width=20_000, height=20_000)
    assert verify(desk, "shop").code == 0
    said = verify(desk, "shop", "--deep")
    assert said.code == 4
    assert problems(said) == [("undecodable", on_record(path)) for path in files[1:]]
    details = {entry["path"]: entry["detail"] for entry in said.entries if entry["type"] == "problem"}
    assert "1024x1024" in details[on_record(files[3])]
    assert "512x1024" in details[on_record(files[3])]
    assert "jpeg" in details[on_record(files[4])]
    assert said.err == ""


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_deep_takes_every_format_that_the_store_takes(desk: Desk, kind: str) -> None:
    """An image that was received whole is whole."""
    made(desk, prompts=["One picture"], settings={"size": "1024x1024", "quality": "low", "output_format": kind})
    assert verify(desk, "--deep").code == 0


# -- the ledger ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "../secret.png",
        "shop/images/../../../secret.png",
        "shop/../shop/images/a.png",
        "/etc/hostname",
        "other/images/a.png",
        "shop/logs/a.png",
        "shop/images//a.png",
        "shop",
        "",
    ],
)
def test_a_path_that_leaves_the_jobs_folders_is_neither_read_nor_written(desk: Desk, path: str) -> None:
    """Paths from a ledger are data: one that leads elsewhere is a contradiction, even if the bytes there are right."""
    made(desk)
    first = images(desk)[0]
    shutil.copy(first, desk.folder / "secret.png")
    first.unlink()
    change(desk, "UPDATE assets SET path = ? WHERE path = ?", path, on_record(first))
    before = tree(desk)
    said = verify(desk, "shop", "--repair", "--yes")
    assert said.code == 1
    assert problems(said) == [("contradiction", path)]
    assert actions(said) == []
    assert tree(desk) == before
    assert rows(desk, "SELECT count(*) FROM tasks WHERE status = 'done'") == [(3,)]


def test_a_damaged_ledger_is_1_and_nothing_is_repaired_from_it(desk: Desk) -> None:
    """What SQLite itself complains of is told; from such a ledger no image is given up."""
    made(desk)
    images(desk)[0].unlink()
    change(desk, "UPDATE assets SET attempt_id = 4711 WHERE id = 3")
    said = verify(desk, "shop", "--repair", "--yes")
    assert said.code == 1
    assert ("ledger", None) in problems(said)
    assert actions(said) == []
    assert rows(desk, "SELECT count(*) FROM assets") == [(3,)]


def test_records_that_contradict_each_other_are_1(desk: Desk) -> None:
    """A task that is done without an image on record is told by its name."""
    made(desk)
    (name,) = rows(desk, "SELECT t.name FROM tasks t JOIN assets a ON a.task_id = t.id WHERE a.id = 2")[0]
    change(desk, "DELETE FROM assets WHERE id = 2")
    said = verify(desk)
    assert said.code == 1
    (told,) = [entry for entry in said.entries if entry.get("kind") == "contradiction"]
    assert (told["job"], told["task"]) == ("shop", name)
    assert "no image on record" in told["detail"]


def test_what_cannot_be_looked_at_is_2(desk: Desk) -> None:
    """No ledger, or a job that it does not know."""
    assert desk.call("verify").code == 2
    made(desk)
    said = desk.call("verify", "shpo")
    assert said.code == 2
    assert "shop" in said.err


# -- mending what costs nothing -----------------------------------------------------------------------


@pytest.mark.parametrize("place", ["images/renamed by hand.png", "images/a/b.png", "superseded/old.png", "best/a.png"])
def test_an_image_that_was_moved_by_hand_is_put_back_for_nothing(desk: Desk, place: str) -> None:
    """Under another name anywhere in the job's folder; afterwards all is right, and no run asks for anything."""
    job = made(desk)
    victim = images(desk)[1]
    data, paid = victim.read_bytes(), accounts(desk)
    moved = desk.folder / "output" / "shop" / place
    moved.parent.mkdir(parents=True, exist_ok=True)
    victim.rename(moved)
    said = verify(desk, "shop", "--repair")
    assert said.code == 0
    assert actions(said) == [("put_back", on_record(victim))]
    assert victim.read_bytes() == data
    assert not moved.exists()
    assert (verdict(said)["missing"], verdict(said)["put_back"]) == (1, 1)
    assert problems(verify(desk, "shop")) == []
    assert accounts(desk) == paid
    assert desk.run(job, "--json").summary["requests"] == 0


def test_an_image_that_another_job_has_is_put_back_from_there(desk: Desk) -> None:
    """Each of the two jobs in turn gets its file back from the other, by a link or a copy."""
    made(desk, "one", [GOOD[0]])
    made(desk, "two", [GOOD[0]])
    assert desk.requests() == 1
    for job in ("one", "two"):
        (victim,) = images(desk, job)
        data = victim.read_bytes()
        victim.unlink()
        said = verify(desk, job, "--repair")
        assert (said.code, actions(said)) == (0, [("put_back", on_record(victim))])
        assert victim.read_bytes() == data
    assert verify(desk).code == 0


def test_one_stray_file_serves_two_images_of_the_same_bytes(desk: Desk) -> None:
    """The first gets the file itself, the second a link to it."""
    made(desk)
    first, second, _ = images(desk)
    data = first.read_bytes()
    put(desk, second, data)
    first.rename(first.with_name("stray.png"))
    second.unlink()
    said = verify(desk, "shop", "--repair")
    assert (said.code, [action for action, _ in actions(said)]) == (0, ["put_back", "put_back"])
    assert first.read_bytes() == second.read_bytes() == data
    assert problems(verify(desk, "shop")) == []


def test_a_link_or_a_damaged_file_is_never_taken_for_the_image(desk: Desk) -> None:
    """Only the very bytes of a real file count: no symbolic link, and not the other job's copy once it is damaged."""
    made(desk, "one", [GOOD[0]])
    made(desk, "two", [GOOD[0]])
    (one,), (two,) = images(desk, "one"), images(desk, "two")
    kept = desk.folder / "kept.png"
    shutil.copy(one, kept)
    one.unlink()
    two.unlink()
    two.write_bytes(kept.read_bytes()[:-1] + b"x")
    (one.parent / "link.png").symlink_to(kept)
    said = verify(desk, "one", "--repair")
    assert said.code == 4
    assert actions(said) == []
    assert not one.exists()


def test_an_image_that_lies_there_and_cannot_be_put_back_is_not_paid_for_again(desk: Desk) -> None:
    """Something stands in the way: that is told, and its task stays done."""
    made(desk, output={"name": "{{ prompt_id }}/picture"})
    victim = images(desk)[0]
    victim.rename(desk.folder / "output" / "shop" / "images" / "stray.png")
    victim.parent.rmdir()
    victim.parent.write_text("a file where a folder ought to be")
    said = verify(desk, "shop", "--repair", "--yes")
    assert said.code == 4
    assert actions(said) == [("failed", on_record(victim))]
    assert rows(desk, "SELECT count(*) FROM tasks WHERE status = 'done'") == [(3,)]


def test_something_else_in_an_images_place_is_left_and_not_planned_over(desk: Desk) -> None:
    """A folder that has an image's name would stop the run that makes it: a person has to move it first."""
    made(desk)
    victim = images(desk)[0]
    shutil.copy(victim, victim.with_name("copy.png"))
    _folder(victim)
    said = verify(desk, "shop", "--repair", "--yes")
    assert (said.code, actions(said)) == (4, [])
    assert victim.is_dir()


# -- planning again what is gone ----------------------------------------------------------------------


def test_what_is_gone_is_made_again_and_nothing_else(desk: Desk) -> None:
    """Law 3, and its one exception: after a yes, a run asks for just the lost images, under the same names.

    The stand-in's own bill grows by exactly these, and the ledger keeps what the lost ones had cost.
    """
    job = made(desk, prompts=[f"Picture {n}" for n in range(6)])
    lost, kept = images(desk)[1:3], [*images(desk)[:1], *images(desk)[3:]]
    billed_before, recorded_before = spent(desk)
    assert billed_before == recorded_before
    paid = accounts(desk)
    inodes = [(path.stat().st_ino, path.read_bytes()) for path in kept]
    for path in lost:
        path.unlink()
    said = verify(desk, "shop", "--repair", "--yes")
    assert said.code == 4
    assert actions(said) == [("planned", on_record(path)) for path in lost]
    assert verdict(said)["planned_again"] == 2
    assert accounts(desk) == paid
    requests = desk.requests()
    assert requests == 6, "verify itself asks nobody"
    with Ledger.open(desk.folder / "output" / "ledger.sqlite3", create=False) as ledger:
        assert ledger.check() == []
        found = ledger.job("shop")
        assert found is not None
        assert [todo.name for todo in ledger.todo(found, -1, 10)] == [
            on_record(path).removeprefix("shop/images/") for path in lost
        ]

    summary = desk.run(job, "--json").summary
    assert (summary["exit_code"], summary["made"], summary["requests"], summary["done"]) == (0, 2, 2, 6)
    assert desk.requests() == requests + 2
    assert [(path.stat().st_ino, path.read_bytes()) for path in kept] == inodes
    assert all(path.is_file() for path in lost)
    entries = desk.peer.entries()
    billed, recorded = spent(desk)
    assert billed == recorded == summary["job_cost_usd"] * 1e6
    assert billed - billed_before == sum(entry["cost_microusd"] for entry in entries[-2:])
    assert accounts(desk)[:6] == paid
    assert (verify(desk, "shop").code, problems(verify(desk, "shop"))) == (0, [])
    assert desk.run(job, "--json").summary["requests"] == 0


def test_without_a_yes_nothing_is_planned(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """No terminal, or any answer but yes: 4, the task stays done, and the message says how to agree."""
    job = made(desk)
    images(desk)[0].unlink()
    said = desk.call("verify", "shop", "--repair")
    assert said.code == 4
    assert "--yes" in said.err
    assert verdict(verify(desk, "shop", "--repair"))["not_planned"] == 1
    for answer in ("", "\n", "n\n", "no\n", "yesterday\n"):
        monkeypatch.setattr(sys, "stdin", Terminal(answer))
        asked = desk.call("verify", "shop", "--repair")
        assert asked.code == 4
        assert "1 image is gone: plan it again? making it costs about $" in asked.err
        assert asked.err.rstrip().endswith("[y/N]")
        assert rows(desk, "SELECT count(*) FROM tasks WHERE status = 'done'") == [(3,)]
    assert desk.run(job, "--json").summary["requests"] == 0
    for answer in ("y\n", "YES\n"):
        monkeypatch.setattr(sys, "stdin", Terminal(answer))
        assert desk.call("verify", "shop", "--repair").code == 4
        assert rows(desk, "SELECT count(*) FROM tasks WHERE status = 'planned'") == [(1,)]
        assert desk.run(job, "--json").summary["made"] == 1
        images(desk)[0].unlink()


def test_the_price_is_what_a_plan_of_these_images_says(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Expected and at most, at the catalog's prices of today; without the manifest, what they cost when made."""
    prompts = [f"Picture {n} of a rather long series of many pictures" for n in range(4)]
    job = made(desk, prompts=prompts)
    for path in images(desk)[:3]:
        path.unlink()
    alone = desk.manifest("alone", prompts[:3])
    expected = plan(alone, Options(provider="openai", output=desk.folder / "nowhere"))
    said = desk.call("verify", "shop", "--repair")
    money = [usd(expected.total(f"{kind}_microusd")) for kind in ("expected", "worst")]
    assert f"3 images are gone: plan them again? making them costs about {money[0]} (at most {money[1]})" in said.err
    Path(job).unlink()
    (cost, reserved) = rows(desk, "SELECT sum(cost_microusd), sum(reserved_microusd) FROM attempts WHERE id < 4")[0]
    said = desk.call("verify", "shop", "--repair")
    assert f"about {usd(cost)} (at most {usd(reserved)}), at the prices of when they were made" in said.err


def test_a_simulated_image_is_said_to_cost_nothing_real(desk: Desk) -> None:
    """The price of a simulated job is told as what it would be."""
    job = desk.manifest("play", GOOD)
    assert desk.call("run", job, "--provider", "simulator", "--base-url", desk.peer.base_url, "--quiet").code == 0
    images(desk, "play")[0].unlink()
    assert "if it were not simulated" in desk.call("verify", "play", "--repair").err


def test_what_came_back_while_the_question_stood_is_not_paid_for(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever restores a copy before answering keeps it."""
    made(desk)
    first, second, _ = images(desk)
    data = first.read_bytes()
    first.unlink()
    second.unlink()

    monkeypatch.setattr(sys, "stdin", Terminal("y\n", lambda: first.write_bytes(data)))
    desk.call("verify", "shop", "--repair")
    assert rows(desk, "SELECT count(*) FROM tasks WHERE status = 'planned'") == [(1,)]
    assert problems(verify(desk, "shop")) == []


@pytest.mark.parametrize("damage", [_flip, _truncate, _link, _dangle])
def test_a_changed_file_is_never_touched(desk: Desk, damage: Any) -> None:
    """Even with --repair --yes, and with a good copy beside it: it may be of use to someone, so a person decides."""
    made(desk)
    victim = images(desk)[0]
    shutil.copy(victim, victim.with_name("copy.png"))
    damage(victim)
    before = tree(desk)
    said = verify(desk, "shop", "--repair", "--yes")
    assert (said.code, actions(said)) == (4, [])
    assert tree(desk) == before
    assert rows(desk, "SELECT count(*) FROM tasks WHERE status = 'done'") == [(3,)]
    shown = desk.call("verify", "shop")
    assert "delete them and: " in shown.out


def test_an_image_that_nobody_wants_any_more_is_recorded_as_gone(desk: Desk) -> None:
    """It was paid for, so it is checked; once lost it is never planned, and what it cost stays on record."""
    made(desk, prompts=[{"id": "a", "text": "A first version"}])
    job = made(desk, prompts=[{"id": "a", "text": "A second version"}])
    (old,) = images(desk, folder="superseded")
    assert verdict(verify(desk, "shop"))["good"] == 2
    paid = accounts(desk)
    old.unlink()
    said = verify(desk, "shop")
    assert said.code == 4
    (told,) = [entry for entry in said.entries if entry["type"] == "problem"]
    assert (told["kind"], told["path"], told["wanted"]) == ("missing", on_record(old), False)
    said = verify(desk, "shop", "--repair")
    assert (said.code, actions(said)) == (0, [("recorded", on_record(old))])
    assert (verify(desk, "shop").code, verdict(verify(desk, "shop"))["assets"]) == (0, 1)
    assert accounts(desk) == paid
    assert desk.run(job, "--json").summary["requests"] == 0


def test_an_image_that_others_were_taken_from_leaves_them_as_they_are(desk: Desk) -> None:
    """Reused images stay reused, on record and in what that saved, when the one that was paid for is given up."""
    for name in ("one", "two", "three"):
        made(desk, name, [GOOD[0]])
    assert desk.requests() == 1
    before = desk.call("costs", "--json").entries
    assert sum(entry["saved_by_reuse_microusd"] for entry in before if entry["type"] == "cost") > 0
    for name in ("one", "two", "three"):
        for path in images(desk, name):
            path.unlink()
    said = verify(desk, "one", "--repair", "--yes")
    assert [action for action, _ in actions(said)] == ["planned"]
    assert desk.call("costs", "--json").entries == before
    last = verdict(verify(desk))
    assert (last["assets"], last["missing"], last["ledger"], last["contradiction"]) == (2, 2, 0, 0)
    assert verify(desk, "--repair", "--yes").code == 4
    after = {entry["job"]: entry for entry in desk.call("costs", "--json").entries if entry["type"] == "cost"}
    assert after["one"]["cost_microusd"] == desk.peer.bill()["cost_microusd"]
    for name in ("one", "two", "three"):
        assert desk.run(f"{name}.yaml", "--json").code == 0
    assert desk.requests() == 2, "the first makes it once more, the others take it over again"
    assert verify(desk).code == 0
    assert spent(desk)[0] == spent(desk)[1]


def test_a_folder_that_is_not_there_at_all_is_not_a_reason_to_pay_for_everything(desk: Desk) -> None:
    """A disk that is not mounted, or the wrong --output: 2, with a hint, and nothing is planned or made."""
    made(desk)
    ledger = desk.folder / "output" / "ledger.sqlite3"
    said = verify(desk, "shop", "--repair", "--yes", "--output", "elsewhere", "--ledger", str(ledger))
    assert said.code == 2
    assert "mount" in said.err
    assert not (desk.folder / "elsewhere").exists()
    assert rows(desk, "SELECT count(*) FROM tasks WHERE status = 'done'") == [(3,)]
    seen = verify(desk, "shop", "--output", "elsewhere", "--ledger", str(ledger))
    assert (seen.code, verdict(seen)["missing"]) == (4, 3)


def test_a_repair_waits_for_no_run(desk: Desk) -> None:
    """A run holds the job: 7, with its pid; without --repair one may look."""
    made(desk)
    job = desk.manifest("held", ["[[fault:delay=30]] something slow"])
    run = desk.start("run", job, *desk.to_peer, "--json")
    try:
        assert run.stdout
        while '"attempt_began"' not in run.stdout.readline():
            pass
        for arguments in (("held",), ()):
            said = verify(desk, *arguments, "--repair", "--yes")
            assert said.code == 7
            assert str(run.pid) in said.err
        assert verify(desk).code == 0
        assert verify(desk, "shop", "--repair", "--yes").code == 0
    finally:
        run.kill()
        run.communicate()
    said = verify(desk, "held")
    assert said.code == 0, "what a dead run left is the next run's"


def test_json_lines_and_words_say_the_same(desk: Desk) -> None:
    """Each line has a type, the verdict comes last, and its counts are those of the lines before."""
    made(desk)
    first, second, third = images(desk)
    first.unlink()
    _flip(second)
    third.rename(third.with_name("moved.png"))
    said = verify(desk, "shop", "--repair", "--yes")
    last = verdict(said)
    kinds = [entry["kind"] for entry in said.entries if entry["type"] == "problem"]
    for kind in ("missing", "changed", "unknown"):
        assert last[kind] == kinds.count(kind) == {"missing": 2, "changed": 1, "unknown": 1}[kind]
    assert [action for action, _ in actions(said)] == ["planned", "put_back"]
    assert [entry["type"] for entry in said.entries] == ["problem"] * 4 + ["repair"] * 2 + ["verify"]
    assert json.loads(said.out.splitlines()[-1])["exit_code"] == 4
    words = desk.call("verify", "shop")
    assert (words.code, words.err) == (4, "")
    assert re.search(r"1 of 2 images are there and right", words.out)
    assert KEY_VARIABLE not in words.out
