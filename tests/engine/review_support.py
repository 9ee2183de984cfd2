"""A sweep on record, and people who choose: what the tests of results and of the review share."""

from __future__ import annotations

import http.client
import json
import secrets
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

from runner.ledger import THUMBNAIL, Choice, Cost, NewChoice, Rendition, Todo
from runner.ledger.views import Verdict
from runner.review import Settings
from runner.review.desk import Desk
from runner.review.server import make_app
from runner.serving import Server, listen
from runner.tasks import ImageRequest, Task, task_key
from tests.edges.ledger_support import NOW_MS, House, change, make_task, open_house, png

PRICES = {"low": 5_000, "medium": 11_000, "high": 36_000}


def sweep(
    prompts: int = 3,
    *,
    qualities: Sequence[str] = ("low", "medium"),
    styles: Sequence[str] = ("ink", "photo"),
    samples: int = 1,
) -> Iterator[Task]:
    """Every combination; the style is a word of the prompt."""
    for number in range(prompts):
        for quality in qualities:
            for style in styles:
                for sample in range(1, samples + 1):
                    request = ImageRequest(f"prompt {number}, {style}", "gpt-image-2", "16x16", quality)
                    task = make_task(request.prompt, prompt_id=f"p{number}", quality=quality, sample=sample)
                    yield replace(
                        task,
                        request=request,
                        key=task_key(request, sample=sample, edition=None, simulated=False),
                        variant=(("quality", quality), ("style", style)),
                        name=f"p{number}/{quality}-{style}-{sample}.png",
                    )


@dataclass
class Panel:
    """A job with images on disk and on record, and choices of them."""

    house: House
    numbers: Iterator[int]

    def make_all(self, *, but: Sequence[str] = ()) -> None:
        """Make every planned image, with a price by its quality; those of the names `but` stay planned."""
        for todo in self.house.todo():
            if todo.name not in but:
                self.make(todo)

    def make(self, todo: Todo) -> None:
        """One image; no two are alike."""
        attempt_id = self.house.begin(todo)
        sealed = self.house.receive(attempt_id, png(todo.task_id, "16x16"))
        cost = Cost(PRICES[todo.request.quality], "estimate")
        file = self.house.record(attempt_id, todo, sealed, cost=cost)
        self.house.store.place(attempt_id, file.path)
        self.house.save(attempt_id, todo, file)

    def task(self, name: str) -> int:
        """The task of a file's name, without its ending: `p0/low-ink-1`."""
        with self.house.ledger.tiles(self.house.job) as tiles:
            return next(tile.task_id for tile in tiles if tile.name == f"{name}.png")

    def choose(
        self, left: str, right: str, verdict: Verdict = "left", *, by: str = "Ann", blind: bool = False
    ) -> Choice:
        """A verdict on two files."""
        new = NewChoice(by, self.task(left), self.task(right), verdict, None, blind, f"token-{next(self.numbers)}")
        return self.house.ledger.reviews.add(self.house.job, new, now_ms=NOW_MS)

    def star(self, name: str, stars: int, *, by: str = "Ann") -> Choice:
        """Stars for a file."""
        new = NewChoice(by, self.task(name), None, "stars", stars, False, f"token-{next(self.numbers)}")
        return self.house.ledger.reviews.add(self.house.job, new, now_ms=NOW_MS)

    def thumb(self, task_id: int) -> bytes:
        """A thumbnail of an image; its bytes."""
        path, data = f"sweep/gallery/thumbs/{task_id}.webp", png(task_id, "8x8", "WEBP")
        target = self.house.output / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        asset = self.house.asset(task_id)
        assert asset is not None
        made = Rendition(task_id, THUMBNAIL, "r", asset["sha256"], "a", path, "0" * 64, len(data))
        self.house.ledger.renditions.made([made], now_ms=NOW_MS)
        return data

    def replace(self, name: str) -> None:
        """Another image has taken the place of a file's."""
        statement = "UPDATE assets SET sha256 = ? WHERE task_id = ?"
        change(self.house.ledger, statement, "f" * 64, self.task(name))


@dataclass(frozen=True, slots=True)
class Said:
    """An answer of the review's server."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Host:
    """A review that is being served."""

    port: int
    token: str
    desk: Desk

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.origin}/?token={self.token}"

    def raw(self, method: str, target: str, headers: Mapping[str, str], body: bytes = b"") -> Said:
        """One request, just as it is given; `Host` is added where it lacks."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            for name, value in {"Host": f"127.0.0.1:{self.port}", **headers}.items():
                connection.putheader(name, value)
            if body and not {"transfer-encoding", "content-length"} & {name.lower() for name in headers}:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body or None)
            answer = connection.getresponse()
            return Said(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Said:
        """A request as the page makes it."""
        return self.raw("GET", self._with_token(path), headers)

    def post(self, path: str, said: object, **headers: str) -> Said:
        """A request as the page makes it; `said` becomes JSON unless it is bytes."""
        body = said if isinstance(said, bytes) else json.dumps(said).encode()
        return self.raw("POST", self._with_token(path), {"Content-Type": "application/json", **headers}, body)

    def next(self, reviewer: str = "Ann") -> Any:
        """What a person is asked."""
        said = self.get(f"/api/next?reviewer={quote(reviewer)}")
        assert said.status == 200, said.body
        return said.json

    def choose(self, item: Any, verdict: str = "left", *, reviewer: str = "Ann", token: str | None = None) -> Said:
        """A choice of what was asked."""
        left, right = (side["id"] for side in item["sides"])
        token = token or secrets.token_hex(8)
        said = {"reviewer": reviewer, "token": token, "left": left, "right": right, "verdict": verdict}
        return self.post("/api/choices", said)

    def _with_token(self, path: str) -> str:
        return f"{path}{'&' if '?' in path else '?'}token={self.token}"


@contextmanager
def hosting(panel: Panel, **settings: Any) -> Iterator[Host]:
    """A review of the panel's job, served by a thread of this process."""
    desk = Desk(panel.house.ledger, panel.house.job.name, Settings(**settings))
    listener = listen("127.0.0.1", 0, what="the review")
    host = Host(listener.getsockname()[1], secrets.token_urlsafe(16), desk)
    ready = threading.Event()
    server = Server(make_app(desk, panel.house.store, token=host.token, port=host.port), ready.set, http="h11")
    thread = threading.Thread(target=server.serve_on, args=(listener,))
    thread.start()
    try:
        assert ready.wait(20)
        yield host
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def open_panel(folder: Path, tasks: Iterable[Task] | None = None, **settings: Any) -> Iterator[Panel]:
    """A panel whose output folder is `folder`, with these tasks, or those of a `sweep` with these settings."""
    with open_house(folder, sweep(**settings) if tasks is None else tasks, name="sweep") as house:
        yield Panel(house, count())
