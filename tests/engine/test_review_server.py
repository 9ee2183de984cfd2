"""The review's server: who may ask, what is told, and that nothing but the ledger leads to a file."""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest
import typer

from runner.cli.app import run_app
from runner.errors import InputError
from runner.review import Settings, desk
from runner.review.desk import Desk as ReviewDesk
from tests.edges.ledger_support import NOW_MS, change, contents, enrolled, png
from tests.engine.command_support import GOOD, Desk, wait
from tests.engine.review_support import Host, Panel, hosting, open_panel, sweep

ROUTES = ("/", "/media/1", "/thumb/1", "/composite/1", "/api/next?reviewer=Ann", "/api/results")


@pytest.fixture
def panel(tmp_path: Path) -> Iterator[Panel]:
    with open_panel(tmp_path) as opened:
        opened.make_all(but=["p2/medium-photo-1.png"])
        yield opened


@pytest.fixture
def host(panel: Panel) -> Iterator[Host]:
    with hosting(panel) as served:
        yield served


@pytest.fixture
def blind(panel: Panel) -> Iterator[Host]:
    with hosting(panel, blind=True) as served:
        yield served


def _path(panel: Panel, name: str) -> Path:
    return panel.house.output / "sweep" / "images" / name


# -- who may ask ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*ROUTES, "/nothing"])
def test_nothing_is_told_without_the_token(host: Host, path: str) -> None:
    """No token, a wrong one, an empty one, two of them: 403, whatever is asked for."""
    mark = "&" if "?" in path else "?"
    for target in (
        path,
        f"{path}{mark}token=",
        f"{path}{mark}token={host.token[:-1]}",
        f"{path}{mark}token={host.token}x",
        f"{path}{mark}token=%ff",
        f"{path}{mark}token={host.token}&token={host.token}",
        f"{path}{mark}TOKEN={host.token}",
        f"{path}{mark}" + "&".join(f"a{n}=1" for n in range(100)) + f"&token={host.token}",
    ):
        said = host.raw("GET", target, {"Cookie": f"token={host.token}", "Authorization": f"Bearer {host.token}"})
        assert said.status == 403, target
        assert "token" in said.json["error"]
    assert host.raw("POST", "/api/undo", {"Content-Type": "application/json"}, b'{"reviewer": "Ann"}').status == 403


@pytest.mark.parametrize("path", ROUTES)
def test_another_name_for_this_machine_is_refused(host: Host, path: str) -> None:
    """A page of another site whose name leads here asks under that name: 421, even with the token."""
    target = f"{path}{'&' if '?' in path else '?'}token={host.token}"
    for name in (
        "evil.example",
        f"evil.example:{host.port}",
        "127.0.0.1",
        f"127.0.0.1:{host.port + 1}",
        "localhost",
        "",
    ):
        assert host.raw("GET", target, {"Host": name}).status == 421, name
    assert host.raw("GET", "/api/results?token=" + host.token, {"Host": f"localhost:{host.port}"}).status == 200


def test_another_page_may_not_choose(host: Host, panel: Panel) -> None:
    """Origin and Sec-Fetch-Site, where they are sent, are the page's own: else 403, and nothing is on record."""
    before = contents(panel.house.ledger)
    said = {"reviewer": "Ann", "token": "12345678", "left": 1, "right": 2, "verdict": "left"}
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": f"http://127.0.0.1:{host.port + 1}"},
        {"Origin": f"https://127.0.0.1:{host.port}"},
        {"Origin": f"http://localhost:{host.port}"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": host.origin, "Sec-Fetch-Site": "cross-site"},
    ):
        for path in ("/api/choices", "/api/undo", "/api/skip"):
            assert host.post(path, said, **headers).status == 403, headers
    assert contents(panel.house.ledger) == before
    own = {"Origin": host.origin, "Sec-Fetch-Site": "same-origin"}
    assert host.post("/api/choices", said, **own).status == 200


def test_another_page_may_not_look_either(host: Host) -> None:
    """Whoever says that they are of another origin gets nothing, whatever they know."""
    for route in ROUTES:
        path = f"{route}{'&' if '?' in route else '?'}token={host.token}"
        for origin in ("https://evil.example", "null", f"http://127.0.0.1:{host.port + 1}"):
            assert host.raw("GET", path, {"Origin": origin}).status == 403, (route, origin)
        assert host.raw("GET", path, {"Origin": host.origin}).status != 403, route


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "PROPFIND"])
def test_only_get_and_post_are_understood(host: Host, method: str) -> None:
    """Anything else is 405, and no preflight is ever answered with a permission."""
    said = host.raw(method, f"/api/choices?token={host.token}", {"Origin": "https://evil.example"})
    assert said.status == 405
    assert said.headers["allow"] == "GET, POST"
    assert not [name for name in said.headers if name.startswith("access-control")]


def test_an_address_is_asked_in_one_way(host: Host) -> None:
    """What changes something is no GET, and what looks is no POST."""
    for path in ("/api/choices", "/api/undo", "/api/skip"):
        assert host.get(path).status == 405
    for path in ROUTES:
        assert host.post(path, {}).status == 405


def test_what_is_no_small_json_is_refused(host: Host, panel: Panel) -> None:
    """Another content type 415, too long 413 (told or not), no JSON 400, another shape 422; nothing is on record."""
    before = contents(panel.house.ledger)
    target = f"/api/choices?token={host.token}"
    good = {"reviewer": "Ann", "token": "12345678", "left": 1, "right": 2, "verdict": "left"}
    body = json.dumps(good).encode()
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        assert host.raw("POST", target, {"Content-Type": kind}, body).status == 415, kind
    assert host.raw("POST", target, {}, body).status == 415
    assert host.post("/api/choices", body + b" " * 5000).status == 413
    for length in ("99999999999999999999", "-5", "x"):
        headers = {"Content-Type": "application/json", "Content-Length": length}
        assert host.raw("POST", target, headers).status in (400, 413), length
    chunks = b"1000\r\n" + b" " * 4096 + b"\r\n" + b"1000\r\n" + b" " * 4096 + b"\r\n0\r\n\r\n"
    headers = {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}
    assert host.raw("POST", target, headers, chunks).status == 413
    for text in (b"", b"{", b"left=1", b'{"reviewer": "\xff"}', b"[" * 4000, b'{"a": NaN', b"\xef\xbb\xbf"):
        assert host.post("/api/choices", text).status == 400, text
    for change_of in (
        {"reviewer": ""},
        {"reviewer": " \t"},
        {"reviewer": "x" * 81},
        {"reviewer": "a\x00b"},
        {"reviewer": "a\u202eb"},
        {"reviewer": 7},
        {"left": "1"},
        {"left": 1.0},
        {"left": True},
        {"left": 0},
        {"left": -1},
        {"left": 2**60},
        {"left": "../../etc/passwd"},
        {"left": 2},
        {"right": None},
        {"verdict": "won"},
        {"verdict": "stars"},
        {"verdict": "stars", "right": None},
        {"verdict": "stars", "right": None, "stars": 0},
        {"verdict": "stars", "right": None, "stars": 6},
        {"verdict": "stars", "stars": 3},
        {"stars": 3},
        {"token": "short"},
        {"token": "x" * 65},
        {"token": "white space"},
        {"blind": True},
        {"more": 1},
    ):
        said = host.post("/api/choices", {**good, **change_of})
        assert said.status == 422, change_of
        assert said.json["error"] and said.json["hint"]
    wholes: tuple[object, ...] = ([], None, "left", 3)
    for whole in wholes:
        assert host.post("/api/choices", whole).status == 422
    assert contents(panel.house.ledger) == before
    assert host.raw("POST", target, {"Content-Type": "Application/JSON; charset=utf-8"}, body).status == 200


def test_every_answer_has_the_headers(host: Host) -> None:
    """Also those that refuse: no sniffing, no frames, no referrer, no other origin, and no server's name."""
    answers = [
        *(host.get(path) for path in (*ROUTES, "/media/999", "/nothing", "/media/x", "/api/choices")),
        host.raw("GET", "/", {}),
        host.raw("GET", "/", {"Host": "evil.example"}),
        host.raw("DELETE", "/", {}),
        host.post("/api/choices", b"{"),
    ]
    assert {said.status for said in answers} == {200, 400, 403, 404, 405, 421}
    for said in answers:
        assert said.headers["x-content-type-options"] == "nosniff"
        assert said.headers["x-frame-options"] == "DENY"
        assert said.headers["referrer-policy"] == "no-referrer"
        assert said.headers["cross-origin-resource-policy"] == "same-origin"
        assert said.headers["content-security-policy"]
        assert said.headers["cache-control"] in ("no-store", "private, max-age=300")
        assert "server" not in said.headers
    page = host.get("/").body.decode()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    assert "connect-src &#39;self&#39;" in policy.group(1)
    assert "unsafe" not in policy.group(1)


# -- pictures -------------------------------------------------------------------------------------


def test_a_picture_is_the_file_that_the_ledger_names(host: Host, panel: Panel) -> None:
    """Byte for byte, with its type; by the task's number, of this job and of what its images came from."""
    task_id = panel.task("p0/low-ink-1")
    said = host.get(f"/media/{task_id}")
    assert (said.status, said.body) == (200, _path(panel, "p0/low-ink-1.png").read_bytes())
    assert said.headers["content-type"] == "image/png"
    assert host.get(f"/thumb/{task_id}").status == 404
    thumb = panel.thumb(task_id)
    said = host.get(f"/thumb/{task_id}")
    assert (said.status, said.headers["content-type"], said.body) == (200, "image/webp", thumb)


def test_pictures_of_other_jobs_are_shown_only_as_relatives(host: Host, panel: Panel) -> None:
    """A task of another job is nobody's business here, unless an image of this one became it."""
    other = enrolled(panel.house.ledger, sweep(1, qualities=["high"]), name="finals")
    (first, *_) = panel.house.ledger.todo(other, -1, 10)
    path = "finals/images/x.png"
    (panel.house.output / "finals/images").mkdir(parents=True)
    (panel.house.output / path).write_bytes(png(99, "16x16"))
    change(
        panel.house.ledger,
        "INSERT INTO assets (task_id, path, sha256, bytes, format, width, height, has_c2pa, model, simulated, "
        "created_ms) VALUES (?, ?, ?, 1, 'png', 16, 16, 0, 'm', 0, 1)",
        first.task_id,
        path,
        "e" * 64,
    )
    change(panel.house.ledger, "UPDATE tasks SET status = 'done' WHERE id = ?", first.task_id)
    assert host.get(f"/media/{first.task_id}").status == 404
    with panel.house.ledger.tiles(panel.house.job) as tiles:
        keys = [next(tiles).key]
    assert panel.house.ledger.link_origins(other, {first.prompt_id: keys}, of_job="sweep", now_ms=NOW_MS) > 0
    assert host.get(f"/media/{first.task_id}").body == png(99, "16x16")


@pytest.mark.parametrize(
    "path",
    [
        "/media/../../ledger.sqlite3",
        "/media/..%2f..%2fledger.sqlite3",
        "/media/%2e%2e/%2e%2e/ledger.sqlite3",
        "/media//etc/passwd",
        "//etc/passwd",
        "/etc/passwd",
        "/ledger.sqlite3",
        "/sweep/images/p0/low-ink-1.png",
        "/media/p0/low-ink-1.png",
        "/media/1.png",
        "/media/1%00",
        "/media/+1",
        "/media/-1",
        "/media/1e0",
        "/media/0x1",
        "/media/%201",
        "/media/1/",
        "/media/",
        "/media/\u0661".encode().decode("latin-1"),
        "/media/99999999999999999999999999",
        "/media/9223372036854775808",
        "/files/1",
        "/api/1",
        "/media/0",
        "/media/999",
    ],
)
def test_what_is_no_number_of_an_image_is_not_there(host: Host, path: str) -> None:
    """No path from a browser reaches the file system: 404 in every spelling."""
    said = host.raw("GET", f"{_escaped(path)}?token={host.token}", {})
    assert said.status == 404, path
    assert b"root:" not in said.body
    assert b"SQLite" not in said.body


def _escaped(path: str) -> str:
    return "".join(sign if sign.isascii() else f"%{ord(sign):02x}" for sign in path)


@pytest.mark.parametrize("where", ["file", "folder", "outside", "absolute", "job", "text", "pipe", "directory", "gone"])
def test_only_a_picture_at_its_own_place_is_shown(host: Host, panel: Panel, tmp_path: Path, where: str) -> None:
    """A link, a way out, a pipe, a folder, a text: 404, however the ledger came to name it. A linked job is served."""
    task_id, file = panel.task("p0/low-ink-1"), _path(panel, "p0/low-ink-1.png")
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(5, "16x16"))

    def named(path: str) -> None:
        change(panel.house.ledger, "UPDATE assets SET path = ? WHERE task_id = ?", path, task_id)

    match where:
        case "file":
            file.unlink()
            file.symlink_to(secret)
        case "folder":
            file.parent.rename(tmp_path / "moved")
            file.parent.symlink_to(tmp_path / "moved")
        case "outside":
            (panel.house.output.parent / "out.png").write_bytes(png(5, "16x16"))
            named("sweep/../../out.png")
        case "absolute":
            named(str(secret))
        case "job":
            folder = panel.house.output / "sweep"
            folder.rename(tmp_path / "elsewhere")
            folder.symlink_to(tmp_path / "elsewhere")
        case "text":
            file.write_text("<script>alert(1)</script>")
        case "pipe":
            file.unlink()
            os.mkfifo(file)
        case "directory":
            file.unlink()
            file.mkdir()
        case _:
            file.unlink()
    assert host.get(f"/media/{task_id}").status == (200 if where == "job" else 404)


# -- choosing -------------------------------------------------------------------------------------


def test_a_choice_is_on_record_once_however_often_it_is_sent(host: Host, panel: Panel) -> None:
    """And at once: the next thing that is asked is another pair."""
    first = host.next()["items"][0]
    for _ in range(3):
        assert host.choose(first, token="the-same-token").status == 200
    (choice,) = panel.house.ledger.reviews.all(panel.house.job)
    left, right = (side["id"] for side in first["sides"])
    assert (choice.reviewer, choice.left, choice.right, choice.verdict) == ("Ann", left, right, "left")
    state = host.next()
    assert state["done"] == 1
    assert first not in state["items"]


def test_whoever_comes_back_goes_on(panel: Panel) -> None:
    """Another server asks the same person for what is left, in the same order, and others for all of it."""
    with hosting(panel) as host:
        order = list(host.next()["items"])
        total = host.next()["total"]
        assert host.choose(order[0]).status == 200
    with hosting(panel) as host:
        assert (host.next()["done"], host.next()["total"]) == (1, total) == (1, 11 - 1)
        assert host.next()["items"][:2] == order[1:3]
        assert host.next("Bo")["done"] == 0
        seen = 1
        while host.next()["items"]:
            assert host.choose(host.next()["items"][0], "both").status == 200
            seen += 1
        assert seen == total


def test_one_person_is_one_name(host: Host) -> None:
    """White space and the composition of letters make no other person."""
    assert host.choose(host.next("A\u0301nn  Lee")["items"][0], reviewer=" A\u0301nn Lee ").status == 200
    assert host.next("\u00c1nn Lee")["done"] == 1


def test_undo_takes_back_the_newest_of_this_person(host: Host, panel: Panel) -> None:
    """As often as there is one; the pair is handed out again."""
    first, second = host.next()["items"][:2]
    host.choose(first)
    host.choose(second, "right")
    host.choose(host.next("Bo")["items"][0], reviewer="Bo")
    undone = host.post("/api/undo", {"reviewer": "Ann"}).json["undone"]
    assert (undone["verdict"], undone["item"]) == ("right", second)
    assert host.next()["items"][0] == second
    assert host.post("/api/undo", {"reviewer": "Ann"}).json["undone"]["item"] == first
    assert host.post("/api/undo", {"reviewer": "Ann"}).json == {"undone": None}
    assert [choice.reviewer for choice in panel.house.ledger.reviews.all(panel.house.job)] == ["Bo"]


def test_what_is_skipped_comes_last(host: Host) -> None:
    """And comes all the same."""
    first, second = host.next()["items"][:2]
    left, right = (side["id"] for side in first["sides"])
    assert host.post("/api/skip", {"reviewer": "Ann", "left": left, "right": right}).status == 200
    state = host.next()
    assert (state["items"][0], state["skipped"], state["done"]) == (second, 1, 0)
    while (items := host.next()["items"])[0] != first:
        host.choose(items[0])
    assert host.choose(first).status == 200
    assert host.next()["items"] == []


def test_only_pairs_of_one_prompt_can_be_chosen(host: Host, panel: Panel) -> None:
    """Not of two prompts, not of what is not there, not of another job: 422, and nothing is on record."""
    one, other = panel.task("p0/low-ink-1"), panel.task("p1/low-ink-1")
    for left, right in ((one, other), (one, panel.task("p2/medium-photo-1")), (one, 4711), (4711, 4712)):
        said = {"reviewer": "Ann", "token": "12345678", "left": left, "right": right, "verdict": "left"}
        assert host.post("/api/choices", said).status == 422
    assert list(panel.house.ledger.reviews.all(panel.house.job)) == []


def test_images_of_a_run_that_goes_on_are_asked_about(
    host: Host, panel: Panel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is made meanwhile comes in by itself, without the page being opened anew."""
    assert host.next()["total"] == 10
    panel.make_all()
    monkeypatch.setattr(desk, "_FRESH_S", 0.0)
    assert host.next()["total"] == 12


def test_an_image_that_changed_is_asked_about_again(host: Host, panel: Panel) -> None:
    """What was said of another image is no answer."""
    first = host.next()["items"][0]
    host.choose(first)
    change(panel.house.ledger, "UPDATE assets SET sha256 = ? WHERE task_id = ?", "f" * 64, first["sides"][0]["id"])
    assert host.next()["done"] == 0


def test_one_axis_alone(panel: Panel) -> None:
    """`axis` asks only about pairs that differ in it; an axis that is none is told at once, with those there are."""
    with hosting(panel, axis="style") as host:
        assert host.next()["total"] == 5
        assert all("style=" in side["label"] for item in host.next()["items"] for side in item["sides"])
    with pytest.raises(InputError, match="no axis 'colour'") as caught:
        ReviewDesk(panel.house.ledger, "sweep", Settings(axis="colour"))
    assert "quality, style" in (caught.value.hint or "")


def test_stars_are_given_to_one_image(panel: Panel) -> None:
    """Each image once, 1 to 5."""
    with hosting(panel, stars=True) as host:
        state = host.next()
        assert (state["total"], len(state["items"][0]["sides"])) == (11, 1)
        said = {"reviewer": "Ann", "token": "12345678", "left": state["items"][0]["sides"][0]["id"]}
        assert host.post("/api/choices", {**said, "verdict": "stars", "stars": 4}).status == 200
        assert host.next()["done"] == 1
        assert host.get("/api/results").json["stars"][0]["mean"] == 4


def test_results_are_live(host: Host) -> None:
    """Each choice is in them at once."""
    assert host.get("/api/results").json["choices"] == 0
    host.choose(host.next()["items"][0])
    assert host.get("/api/results").json["verdicts"] == 1


# -- blind ----------------------------------------------------------------------------------------


def test_blind_nothing_tells_which_is_which(blind: Host, panel: Panel) -> None:
    """No answer has a task's number, a key, a name, a label or a price; the page has no image at all."""
    with panel.house.ledger.tiles(panel.house.job) as tiles:
        known = list(tiles)
    page = blind.get("/").body.decode()
    data = page.split('id="data">')[1].split("</script>")[0]
    asked = [item for name in ("Ann", "Bo", "Cy") for item in blind.next(name)["items"]]
    # A prompt is there only where both images have it.
    told = data + json.dumps([{**item, "prompts": []} for item in asked])
    for tile in known:
        for text in (tile.key[:10], tile.name, tile.path or tile.name):
            assert text not in told
    for word in ("low", "medium", "ink", "photo", "quality", "style", "cost_microusd"):
        assert not re.search(rf"\b{word}\b", told), word
    numbers = {side["id"] for item in blind.next()["items"] for side in item["sides"]}
    assert not numbers & {tile.task_id for tile in known}
    for tile in known:
        assert blind.get(f"/media/{tile.task_id}").status == 404
        assert blind.get(f"/thumb/{tile.task_id}").status == 404


def test_blind_pictures_are_had_by_their_lot(blind: Host, panel: Panel) -> None:
    """By the number that was handed out, and only as they are; the answer's headers tell nothing either."""
    files = {path.read_bytes() for path in (panel.house.output / "sweep/images").rglob("*.png")}
    for task_id in range(1, 12):
        panel.thumb(task_id)
    for item in blind.next()["items"]:
        for side in item["sides"]:
            said = blind.get(f"/media/{side['id']}")
            assert said.body in files
            assert set(said.headers) <= {
                "date",
                "content-type",
                "content-length",
                "cache-control",
                "content-security-policy",
                "x-content-type-options",
                "x-frame-options",
                "referrer-policy",
                "cross-origin-resource-policy",
                "cross-origin-opener-policy",
            }
            assert blind.get(f"/thumb/{side['id']}").status == 404
            assert blind.get(f"/composite/{side['id']}").status == 404


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are looked at in /proc")
@pytest.mark.parametrize("how", ["whole", "head", "nothing"])
def test_a_picture_is_let_go_of_when_the_browser_goes(panel: Panel, how: str) -> None:
    """At once, and not when the garbage is collected: with its last byte, in the middle, or before the first."""
    path = _path(panel, "p0/low-ink-1.png")
    path.write_bytes(path.read_bytes() + bytes(8_000_000))  # more than a socket takes at once
    shown = f"/media/{panel.task('p0/low-ink-1')}"
    gc.disable()
    try:
        with hosting(panel) as host:
            for _ in range(10):
                with socket.create_connection(("127.0.0.1", host.port), timeout=20) as browser:
                    request = f"GET {shown}?token={host.token} HTTP/1.1\r\nHost: 127.0.0.1:{host.port}\r\n\r\n"
                    browser.sendall(request.encode())
                    left = {"whole": 8_000_000, "head": 1, "nothing": 0}[how]
                    while left > 0:
                        left -= len(browser.recv(1 << 20))
        assert path not in _open_files()
    finally:
        gc.enable()


def _open_files() -> set[Path]:
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # a file that went meanwhile
            found.add(link.readlink())
    return found


def test_blind_sides_stay_and_differ(panel: Panel) -> None:
    """A reload, or another server, shows the same image on the same side; over pairs, both ways occur."""
    with hosting(panel, blind=True) as host:
        first = [host.get(f"/media/{side['id']}").body for side in host.next()["items"][0]["sides"]]
        assert [host.get(f"/media/{side['id']}").body for side in host.next()["items"][0]["sides"]] == first
    lower_left = []
    with hosting(panel, blind=True) as host:
        assert [host.get(f"/media/{side['id']}").body for side in host.next()["items"][0]["sides"]] == first
        while items := host.next()["items"]:
            assert host.choose(items[0]).status == 200
    for choice in panel.house.ledger.reviews.all(panel.house.job):
        assert choice.blind
        assert choice.right is not None
        lower_left.append(choice.left < choice.right)
    assert 0 < sum(lower_left) < len(lower_left)


def test_blind_prompts_that_differ_are_not_shown(blind: Host, panel: Panel) -> None:
    """Where the style is a word of the prompt, the two prompts would tell; where they are one, it is shown."""
    seen = set()
    while items := blind.next()["items"]:
        seen.add(len(items[0]["prompts"]))
        assert items[0]["shared"] is None
        assert [side["label"] for side in items[0]["sides"]] == [None, None]
        assert blind.choose(items[0]).status == 200
    assert seen == {0, 1}
    with hosting(panel, blind=True, stars=True) as host:
        assert all(item["prompts"] == [] for item in host.next()["items"])


def test_blind_results_come_when_all_is_judged(blind: Host) -> None:
    """Before that a person would learn what to look for; another person's end is not theirs."""
    total = blind.next()["total"]
    assert blind.get("/api/results").json == {"locked": True, "left": None}
    while items := blind.next()["items"]:
        state = blind.get("/api/results?reviewer=Ann").json
        assert state["locked"] and state["left"] <= total
        blind.choose(items[0])
    assert blind.get("/api/results?reviewer=Ann").json["verdicts"] == total
    assert blind.get("/api/results?reviewer=Bo").json["locked"]


# -- the command ----------------------------------------------------------------------------------


def test_the_command_serves_while_a_run_goes_on_and_ends_with_ctrl_c(desk: Desk) -> None:
    """One line with the address; others write to the ledger meanwhile; SIGINT is exit code 0; no token stays."""
    job = desk.manifest("night", GOOD, matrix={"quality": ["low", "medium"]})
    assert desk.run(job).code == 0
    process = desk.start("review", "night", "--as", "Ann")
    assert process.stdout is not None
    try:
        url = urlsplit(process.stdout.readline().strip())
        assert (url.hostname, url.path) == ("127.0.0.1", "/")
        assert url.port
        host = Host(url.port, url.query.removeprefix("token="), None)  # type: ignore[arg-type]  # in another process
        assert len(host.token) >= 40
        more = desk.manifest("night", [*GOOD, "A tram in the snow"], matrix={"quality": ["low", "medium"]})
        assert desk.run(more).code == 0
        assert host.choose(host.next()["items"][0]).status == 200
        assert host.get("/").status == 200
    finally:
        process.send_signal(signal.SIGINT)
    said = wait(process)
    assert (said.code, said.out, said.err) == (0, "", "")
    for path in desk.files():
        assert host.token.encode() not in path.read_bytes(), path
    assert "1 choices by Ann (1)" in desk.call("results", "night").out


def test_what_cannot_be_served_is_told(desk: Desk, panel: Panel) -> None:
    """No ledger, no such job, no name, a port that is taken: exit code 2, and what to do."""
    place = ("--output", str(panel.house.output))
    assert desk.call("review", "sweep").code == 2
    assert desk.call("review", "absent", *place).code == 2
    said = desk.call("review", "sweep", "--as", "\u202e", *place)
    assert (said.code, "cannot be a person's name" in said.err) == (2, True)
    assert "no axis" in desk.call("review", "sweep", "--axis", "x", *place).err
    with hosting(panel) as host:
        said = desk.call("review", "sweep", "--port", str(host.port), *place)
        assert (said.code, "port 0 takes any free one" in said.err) == (2, True)


def test_the_browser_is_opened_without_the_token_on_its_command_line(
    panel: Panel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a file that only its user can read, leads to the page, and is gone afterwards."""
    opened: list[str] = []

    def launch(url: str) -> int:
        door = Path(url2pathname(urlsplit(url).path))
        assert f"url={address}" in door.read_text("utf-8")
        assert door.parent.stat().st_mode & 0o077 == 0
        opened.append(url)
        return 0

    monkeypatch.setattr(typer, "launch", launch)
    address = "http://127.0.0.1:1/?token=abc"
    monkeypatch.setattr("runner.review.serve", lambda *_, on_ready: on_ready(address))
    for flags, count in (["--no-open"], 0), (["--open"], 1):
        assert run_app(["review", "sweep", "--output", str(panel.house.output), *flags]) == 0
        assert len(opened) == count
    assert "abc" not in opened[0]
    assert not Path(url2pathname(urlsplit(opened[0]).path)).exists()
