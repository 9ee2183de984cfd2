"""Runs whose images go to a bucket: by commands, with faults on the way, killed at each step, and on another host."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from runner.store import objects
from tests.engine.command_support import GOOD, Desk, Said, wait
from tests.servers.s3 import S3, SECRET, s3
from tests.servers.s3_desk import Ground, at_s3, in_folder
from tests.servers.s3_faults import Kind, Proxy, faulty

CARD = [{"name": "card", "width": 64, "height": 64, "fit": "cover"}]
ONE = ["A lighthouse at dusk"]
_DYING = """
import json, sys
from tests.crash.dying_runner import plant
from runner.cli import main
place, when = json.loads(sys.argv.pop(1))
plant(place, when)
main()
"""


@pytest.fixture(scope="module")
def bucket_server() -> Iterator[S3]:
    with s3() as running:
        yield running


@pytest.fixture
def proxy(bucket_server: S3) -> Iterator[Proxy]:
    with faulty(bucket_server.endpoint) as running:
        yield running


@pytest.fixture
def ground(bucket_server: S3, proxy: Proxy, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ground]:
    monkeypatch.setenv("RUNNER_SPOOL", str(desk.folder / "spool"))
    monkeypatch.setattr(objects, "PAUSES_S", (0.01,) * 6)
    with at_s3(bucket_server, monkeypatch, endpoint=proxy.endpoint) as it:
        yield it


def images(ground: Ground) -> dict[str, bytes]:
    """The assets that lie in the bucket."""
    return {path: data for path, data in ground.tree().items() if "/images/" in path}


def temporaries(desk: Desk, ground: Ground) -> list[str]:
    """What is on its way: in the spools and in the bucket."""
    here = [path.name for spool in desk.folder.glob("spool*") for path in spool.rglob(".partial/*")]
    return here + [path for path in ground.tree() if "/.partial/" in path]


def told(desk: Desk, job: str) -> dict[str, Any]:
    """What `status` says of a job."""
    (entry,) = [entry for entry in desk.call("status", job, "--json").entries if entry["type"] == "status"]
    return entry


def exported(desk: Desk, job: str) -> list[dict[str, Any]]:
    """What is on record of each task."""
    return [json.loads(line) for line in desk.call("export", job, "--format", "jsonl").out.splitlines()]


def agrees(desk: Desk, ground: Ground, job: str) -> None:
    """Every image on record lies in the bucket with its hash, and the bill is the ledger's."""
    rows = exported(desk, job)
    lying = images(ground)
    done = [row for row in rows if row["status"] == "done"]
    assert {row["path"] for row in done} == set(lying)
    assert all(hashlib.sha256(lying[row["path"]]).hexdigest() == row["sha256"] for row in done)


def test_a_whole_way(desk: Desk, ground: Ground, proxy: Proxy) -> None:
    """Run, run again, verify, gallery, render, sheet, report, export, promote: all of it works on the bucket."""
    job = desk.manifest("sweep", GOOD, matrix={"quality": ["low", "medium"]}, output={"dir": ground.url})
    first = desk.run(job, "--json")
    assert (first.code, first.summary["made"]) == (0, 4)
    assert first.summary["images"] == f"{ground.url}/sweep/images"
    agrees(desk, ground, "sweep")
    assert desk.peer.bill()["cost_microusd"] == sum(row["cost_microusd"] for row in exported(desk, "sweep"))
    assert temporaries(desk, ground) == []
    assert not (desk.folder / "output" / "sweep").exists()

    requests = desk.requests()
    assert desk.run("sweep", "--json").summary["made"] == 0
    assert desk.requests() == requests == 4
    assert set(ground.tree()) >= {f"sweep/logs/run-00000{number}.jsonl" for number in (1, 2)}
    log = [json.loads(line) for line in ground.tree()["sweep/logs/run-000001.jsonl"].splitlines()]
    assert sum(entry["type"] == "saved" for entry in log) == 4

    assert desk.call("verify", "sweep").code == desk.call("verify", "sweep", "--deep").code == 0
    page = desk.call("gallery", "sweep", "--quiet")
    assert (page.code, page.out) == (0, f"{ground.url}/sweep/gallery/index.html\n")
    html = ground.tree()["sweep/gallery/index.html"].decode()
    assert "../../sweep/images/" in html  # beside the page, in the bucket and in a copy of it
    assert sum(path.startswith("sweep/gallery/thumbs/") for path in ground.tree()) == 4

    desk.manifest("sweep", GOOD, matrix={"quality": ["low", "medium"]}, output={"dir": ground.url}, renditions=CARD)
    made = desk.call("render", "sweep", "--json", "--quiet")
    assert made.entries[-1]["renditions"] == 4
    assert made.entries[-1]["folder"] == f"{ground.url}/sweep/renditions"
    assert sum(path.startswith("sweep/renditions/card/") for path in ground.tree()) == 4
    assert desk.call("render", "sweep", "--json", "--quiet").entries[-1]["renditions"] == 0

    assert desk.call("sheet", "sweep", "--to", "sheet.png").code == 0
    with Image.open("sheet.png") as sheet:
        assert sheet.width > 256
    assert desk.call("report", "sweep", "--run", "1", "--to", "night.html").code == 0
    night = Path("night.html").read_text()
    assert night.count("data:image/jpeg") == 4
    assert f"{ground.url}/sweep/gallery/index.html" in night

    picks = [row["key"] for row in exported(desk, "sweep")][:1]
    promoted = desk.call("promote", "sweep", "--pick", picks[0][:12], "--as-edit", "--plan", *desk.to_peer)
    assert promoted.code == 0, promoted.err
    assert requests == desk.requests()
    assert SECRET not in f"{first}{page}{made}{promoted}{night}{html}"


def test_a_promotion_as_edit_starts_from_a_copy_of_the_image(desk: Desk, ground: Ground) -> None:
    """A manifest names files of this machine; the images of the new job go where the old ones are."""
    job = desk.manifest("sweep", ONE, output={"dir": ground.url})
    desk.run(job, "--json")
    (row,) = exported(desk, "sweep")
    chosen = ("--pick", row["key"][:12], "--as-edit", "--name", "finals")
    said = desk.call("promote", "sweep", *chosen, *desk.to_peer)
    assert said.code == 0, said.err
    assert [path for path in images(ground) if path.startswith("finals/")]
    copies = list((desk.folder / "output" / "sweep" / "promotions" / "pictures").iterdir())
    assert [hashlib.sha256(copy.read_bytes()).hexdigest() for copy in copies] == [row["sha256"]]


def test_what_is_named_on_the_command_line_wins_and_is_remembered(desk: Desk, ground: Ground) -> None:
    """--output, then RUNNER_OUTPUT, then the manifest, then where the job's files are on record."""
    plain = desk.manifest("plain", ONE)
    assert desk.run(plain, "--output", ground.url, "--ledger", "ledger.sqlite3", "--json").code == 0
    assert len(images(ground)) == 1
    requests = desk.requests()
    again = desk.run("plain", "--ledger", "ledger.sqlite3", "--json")
    assert (again.code, again.summary["images"]) == (0, f"{ground.url}/plain/images")
    assert desk.call("verify", "plain", "--ledger", "ledger.sqlite3").code == 0
    assert desk.call("gallery", "plain", "--ledger", "ledger.sqlite3", "-q").out.startswith(ground.url)
    assert desk.requests() == requests


def test_images_that_lie_elsewhere_are_not_left_behind(desk: Desk, ground: Ground) -> None:
    """A run that would put others into another place is refused; where they were copied, it goes on."""
    job = desk.manifest("plain", ONE)
    assert desk.run(job, "--json").code == 0
    desk.manifest("plain", GOOD)
    refused = desk.run(job, "--output", ground.url, "--ledger", "output/ledger.sqlite3")
    assert refused.code == 2
    assert "lie in a folder" in refused.err
    assert images(ground) == {}
    for path in (desk.folder / "output" / "plain" / "images").rglob("*.png"):
        ground.spoil(path.relative_to(desk.folder / "output").as_posix(), path.read_bytes())
    moved = desk.run(job, "--output", ground.url, "--ledger", "output/ledger.sqlite3", "--json")
    assert (moved.code, moved.summary["made"]) == (0, 1)
    assert len(images(ground)) == 2


def test_another_ledger_is_refused_where_the_job_has_been_run(desk: Desk, ground: Ground) -> None:
    """It would pay for the same images a second time; this host's spool is empty, the bucket tells."""
    job = desk.manifest("plain", ONE, output={"dir": ground.url})
    assert desk.run(job).code == 0
    desk.monkeypatch.setenv("RUNNER_SPOOL", str(desk.folder / "spool-of-another-host"))
    said = desk.run(job, "--ledger", "other.sqlite3")
    assert said.code == 2
    assert "knows nothing of it" in said.err
    assert desk.requests() == 1


def test_jobs_share_images_within_a_bucket_and_between_a_bucket_and_a_folder(desk: Desk, ground: Ground) -> None:
    """A task that another job has done is paid once, wherever its file lies."""
    prompts = [{"id": "a", "text": ONE[0]}]
    here = desk.manifest("here", prompts)
    there = desk.manifest("there", prompts, output={"dir": ground.url})
    third = desk.manifest("third", prompts, output={"dir": ground.url})
    fourth = desk.manifest("fourth", prompts)
    for job in (here, there, third, fourth):
        said = desk.run(job, "--json")
        assert (said.code, said.summary["done"]) == (0, 1), said.err
    assert desk.requests() == 1
    (one, two) = images(ground).values()
    assert one == two
    assert [path.read_bytes() for path in (desk.folder / "output" / "fourth" / "images").rglob("*.png")] == [one]


@pytest.mark.parametrize("kind", ["slow_down", "reset_request", "reset_answer", "wrong_checksum"])
def test_a_fault_that_passes_costs_nothing(desk: Desk, ground: Ground, proxy: Proxy, kind: Kind) -> None:
    """Each image is saved once, and the bill is the ledger's."""
    job = desk.manifest("sweep", GOOD, samples=2, output={"dir": ground.url})
    proxy.fail(kind, times=5)
    said = desk.run(job, "--json")
    assert (said.code, said.summary["made"], said.summary["requests"]) == (0, 4, 4), said.err
    assert len(proxy.failed) == 5
    agrees(desk, ground, "sweep")
    assert temporaries(desk, ground) == []
    assert desk.peer.bill()["cost_microusd"] == sum(row["cost_microusd"] for row in exported(desk, "sweep"))


@pytest.mark.parametrize("kind", ["slow_down", "reset_request", "wrong_checksum"])
def test_a_fault_that_stays_ends_the_run_and_keeps_what_was_paid(
    desk: Desk, ground: Ground, proxy: Proxy, kind: Kind
) -> None:
    """Never done before it is verified; the next run of this host places the image without asking for it again."""
    job = desk.manifest("sweep", ONE, output={"dir": ground.url})
    proxy.fail(kind, times=1000)
    said = desk.run(job)
    assert said.code == 1
    assert f"{ground.url}/sweep/images/" in said.out
    assert images(ground) == {}
    assert told(desk, "sweep")["done"] == 0
    proxy.heal()
    again = desk.run(job, "--json")
    assert (again.code, again.summary["done"], again.summary["requests"]) == (0, 1, 0), again.err
    assert desk.requests() == 1
    agrees(desk, ground, "sweep")
    assert temporaries(desk, ground) == []


def test_a_bucket_that_is_not_there_costs_nothing(desk: Desk, ground: Ground) -> None:
    """It is told before anything is sent."""
    job = desk.manifest("sweep", ONE, output={"dir": "s3://no-such-bucket-at-all/x"})
    said = desk.run(job)
    assert said.code == 1
    assert "there is no such bucket" in said.err
    assert desk.requests() == 0


def test_damage_in_the_bucket_is_found_and_what_is_missing_made_again(desk: Desk, ground: Ground, proxy: Proxy) -> None:
    """Without reading where the server tells a checksum, by reading with --deep; the repair asks as for a folder."""
    job = desk.manifest("sweep", GOOD, output={"dir": ground.url})
    desk.run(job)
    first, second = sorted(images(ground))
    proxy.fail("damaged_answer", method="GET", match=r"/images/.*png", times=1000)
    assert desk.call("verify", "sweep").code == 0
    assert desk.call("verify", "sweep", "--deep").code == 4
    proxy.heal()
    ground.spoil(first, b"not what it was")
    ground.spoil(second, None)
    problems = desk.call("verify", "sweep", "--json")
    assert problems.code == 4
    assert {entry["kind"] for entry in problems.entries if entry["type"] == "problem"} == {"changed", "missing"}
    assert desk.call("verify", "sweep", "--repair", "--yes").code == 4
    assert desk.run("sweep", "--json").summary["made"] == 1
    assert second in images(ground)


STEPS = [
    # What is known of it is on record, and its bytes are on this machine alone.
    ("received, not put", "runner.store.bucket:BucketStore.place", "before", True),
    ("put not begun", "runner.store.s3:S3Objects._put", "before", True),
    ("put not verified", "runner.store.s3:S3Objects._put", "after", False),
    ("put verified, copy not removed", "runner.store.s3:S3Objects.put", "after", False),
    ("placed", "runner.store.bucket:BucketStore.place", "after", False),
    ("done not on record", "runner.ledger.writer:Writer.saved", "before", False),
]


@pytest.mark.parametrize("where", ["this host", "another host"])
@pytest.mark.parametrize(("place", "when", "only_here"), [step[1:] for step in STEPS], ids=[step[0] for step in STEPS])
def test_killed_on_its_way_nothing_is_lost_or_paid_twice(
    desk: Desk, ground: Ground, place: str, when: str, only_here: bool, where: str
) -> None:
    """Laws 2 and 3: found under its name by any host, in the spool by this one; else it is in doubt, on record."""
    job = desk.manifest("sweep", ONE, output={"dir": ground.url})
    # The first put of this run proves that objects can be written, the second is the log's name.
    nth = 3 if "S3Objects" in place else 1
    assert dying(desk, place, when, nth, "run", job, *desk.to_peer).code == -9
    assert told(desk, "sweep")["done"] == 0
    if where == "another host":
        desk.monkeypatch.setenv("RUNNER_SPOOL", str(desk.folder / "spool-of-another-host"))
    said = desk.run(job, "--json")
    assert said.code == 0, said.err
    kinds = [entry["type"] for entry in said.entries]
    if only_here and where == "another host":
        assert kinds.count("found_in_doubt") == 1
        assert desk.requests() == 2
    else:
        assert kinds.count("adopted") == 1
        assert "found_in_doubt" not in kinds
        assert desk.requests() == 1
        # What it cost was on record before its bytes were put.
        assert [row["cost_microusd"] for row in exported(desk, "sweep")] == [desk.peer.bill()["cost_microusd"]]
    agrees(desk, ground, "sweep")
    assert [path for path in ground.tree() if "superseded" in path or "/.partial/" in path] == []
    assert desk.call("verify", "sweep", "--deep").code == 0


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("call", ["keep_aside", "release", "move"])
def test_killed_while_names_change_no_image_is_lost(desk: Desk, ground: Ground, call: str, when: str) -> None:
    """A copy and a removal are two steps; whichever is missing, the next run of any host sees it."""
    prompts = [{"id": "a", "text": GOOD[0]}, {"id": "b", "text": GOOD[1]}]
    job = desk.manifest("sweep", prompts, output={"dir": ground.url, "name": "{{ prompt_id }}"})
    desk.run(job)
    before = set(images(ground).values())
    # Their names are exchanged: each is in the other's way.
    prompts = [{"id": "b", "text": GOOD[0]}, {"id": "a", "text": GOOD[1]}]
    desk.manifest("sweep", prompts, output={"dir": ground.url, "name": "{{ prompt_id }}"})
    place = f"runner.store.bucket:BucketStore.{call}"
    assert dying(desk, place, when, 1, "run", job, *desk.to_peer).code == -9
    desk.monkeypatch.setenv("RUNNER_SPOOL", str(desk.folder / "spool-of-another-host"))
    said = desk.run(job, "--json")
    assert (said.code, said.summary["done"]) == (0, 2), said.err
    assert desk.requests() == 2
    assert set(images(ground).values()) == before
    agrees(desk, ground, "sweep")
    assert [path for path in ground.tree() if "superseded" in path or "/.partial/" in path] == []


def test_the_review_serves_images_from_the_bucket(desk: Desk, ground: Ground) -> None:
    """By way of this machine alone."""
    from http.client import HTTPConnection
    from urllib.parse import urlsplit

    job = desk.manifest("sweep", GOOD, output={"dir": ground.url})
    desk.run(job)
    process = desk.start("review", "sweep", "--as", "ann")
    try:
        assert process.stdout is not None
        address = urlsplit(process.stdout.readline().strip())
        connection = HTTPConnection("127.0.0.1", address.port or 0, timeout=30)
        for path in ("/", "/media/1", "/media/2"):
            connection.request("GET", f"{path}?{address.query}")
            answer = connection.getresponse()
            body = answer.read()
            assert answer.status == 200, (path, body[:200])
            if path != "/":
                assert body in images(ground).values()
        connection.close()
    finally:
        process.terminate()
        wait(process)


def test_a_place_of_another_kind(desk: Desk, ground: Ground) -> None:
    """Whatever fsspec knows: put under a temporary name, read back, moved."""
    other = in_folder(desk.folder / "elsewhere")
    job = desk.manifest("sweep", GOOD, output={"dir": other.url}, renditions=CARD)
    said = desk.run(job, "--json")
    assert (said.code, said.summary["made"], said.summary["renditions"]) == (0, 2, 2), said.err
    agrees(desk, other, "sweep")
    assert temporaries(desk, other) == []
    assert desk.run(job, "--json").summary["requests"] == 0
    assert desk.call("verify", "sweep", "--deep").code == 0


def test_doctor_looks_at_the_bucket(desk: Desk, ground: Ground) -> None:
    """And leaves nothing in it."""
    said = desk.call("doctor", "--provider", "simulator", "--output", ground.url)
    assert f"{ground.url} can be written" in said.out
    assert ground.tree() == {}
    nowhere = desk.call("doctor", "--provider", "simulator", "--output", "s3://nowhere-at-all")
    assert "there is no such bucket" in nowhere.out


def dying(desk: Desk, place: str, when: str, nth: int, *arguments: str) -> Said:
    """A command in a process of its own that dies at the `nth` call of a place."""
    root = str(Path(__file__).parents[2])
    code = _DYING.replace("plant(place, when)", f"plant(place, when, {nth})")
    return wait(
        subprocess.Popen(
            [sys.executable, "-c", code, json.dumps([place, when]), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=desk.folder,
            env={**os.environ, "PYTHONPATH": root},
        )
    )
