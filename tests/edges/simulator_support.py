"""Starts a simulator in a process of its own, and speaks plain HTTP to it, for the tests of the simulator."""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import pytest
import yaml
from PIL import Image, ImageDraw

_MAIN = """
import json, sys
from pathlib import Path
from runner.errors import RunnerError
from runner.simulator import Settings, serve

given = json.loads(sys.argv[1])
for name in ("bill_path", "catalog"):
    if name in given:
        given[name] = Path(given[name])
given["faults"] = tuple(given.get("faults", ()))
try:
    serve(Settings(**given), on_ready=lambda url: print(url, flush=True), stop_when_stdin_closes=True)
except RunnerError as error:
    sys.exit(f"{error}")
"""


PROC = Path("/proc")
needs_proc = pytest.mark.skipif(not (PROC / "self" / "status").is_file(), reason="memory is read from /proc here")
_OPENAPI = Path(__file__).parents[3] / "shared" / "openapi" / "openai-images.yaml"
needs_openapi = pytest.mark.skipif(
    not _OPENAPI.is_file(), reason="the published OpenAPI document is not beside this repository"
)


def check_schema(document: object, schema: str) -> None:
    published = yaml.safe_load(_OPENAPI.read_text("utf-8"))
    jsonschema.Draft202012Validator(
        {"$ref": f"#/components/schemas/{schema}", "components": published["components"]}
    ).validate(document)


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        return self.json["error"]

    def files(self) -> list[bytes]:
        """The image files of the answer."""
        return [base64.b64decode(each["b64_json"], validate=True) for each in self.json["data"]]

    def images(self) -> list[Image.Image]:
        """The images of the answer, every pixel decoded."""
        images: list[Image.Image] = [Image.open(io.BytesIO(file)) for file in self.files()]
        for image in images:
            image.load()
        return images


@dataclass(frozen=True, slots=True)
class Peer:
    """A running simulator."""

    base_url: str
    process: subprocess.Popen[str]

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.base_url)
        assert parts.hostname and parts.port
        return parts.hostname, parts.port

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        key: str | None = "anything",
        kind: str | None = None,
        more: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request on a connection of its own, with `more` headers; `body` is bytes (of this `kind`), or JSON."""
        connection = http.client.HTTPConnection(*self.address, timeout=30)
        headers = {**({"Authorization": f"Bearer {key}"} if key is not None else {}), **(more or {})}
        if kind is not None:
            headers["Content-Type"] = kind
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        with contextlib.closing(connection):
            connection.request(method, path, data, headers)
            answer = connection.getresponse()
            return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())

    def generate(self, prompt: str = "A lighthouse at dusk", **more: Any) -> Answer:
        """One request for an image, small and cheap unless told otherwise."""
        return self.call("POST", "/v1/images/generations", order(prompt, **more))

    def edit(
        self,
        prompt: str = "A hat on it",
        images: Sequence[bytes] = (),
        mask: bytes | None = None,
        *,
        key: str | None = "anything",
        **more: Any,
    ) -> Answer:
        """One edit as a form; the images are sent as the SDK sends a list."""
        kind, data = form(edit_parts(prompt, images, mask, **more))
        return self.call("POST", "/v1/images/edits", data, key=key, kind=kind)

    def edit_json(self, body: object) -> Answer:
        """One edit as JSON."""
        return self.call("POST", "/v1/images/edits", json.dumps(body).encode(), kind="application/json")

    def raw(self, prompt: str, **more: Any) -> socket.socket:
        """A socket that has sent a request for an image, and read nothing."""
        data = json.dumps(order(prompt, **more)).encode()
        return self.raw_body("/v1/images/generations", "application/json", data)

    def raw_body(self, path: str, kind: str, data: bytes, *, sent: int | None = None) -> socket.socket:
        """A socket that has sent a request with this body (or the first `sent` bytes of it), and read nothing."""
        head = (
            f"POST {path} HTTP/1.1\r\nHost: simulator\r\nAuthorization: Bearer x\r\n"
            f"Content-Type: {kind}\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        connection = socket.create_connection(self.address, timeout=30)
        connection.sendall(head.encode() + data[:sent])
        return connection

    def peak_kb(self) -> int:
        """The most memory that it has had, in units of 1,024 bytes."""
        status = (PROC / str(self.process.pid) / "status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0])

    def bill(self) -> Any:
        return self.call("GET", "/simulator/bill", key=None).json

    def entries(self) -> list[Any]:
        answer = self.call("GET", "/simulator/bill/entries", key=None)
        return [json.loads(line) for line in answer.body.splitlines()]


def order(prompt: str, **more: Any) -> dict[str, Any]:
    """The body of a request; a value of None leaves the parameter out."""
    asked = {"model": "gpt-image-1-mini", "prompt": prompt, "size": "1024x1024", "quality": "low", **more}
    return {name: value for name, value in asked.items() if value is not None}


Part = tuple[str, str | bytes]
"""One part of a form: its name, and a text or a file."""


def edit_parts(prompt: str, images: Sequence[bytes], mask: bytes | None = None, **more: Any) -> list[Part]:
    """The parts of a form that asks for an edit; a value of None leaves the parameter out."""
    parts: list[Part] = [(name, str(value)) for name, value in order(prompt, **more).items()]
    parts += [("image[]", image) for image in images]
    return [*parts, ("mask", mask)] if mask is not None else parts


def form(parts: Sequence[Part]) -> tuple[str, bytes]:
    """The content type and the body of a form."""
    data = bytearray()
    for name, value in parts:
        file = "" if isinstance(value, str) else '; filename="upload"\r\nContent-Type: application/octet-stream'
        data += f'--a-border\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode()
        data += (value.encode() if isinstance(value, str) else value) + b"\r\n"
    return "multipart/form-data; boundary=a-border", bytes(data) + b"--a-border--\r\n"


def encoded(image: Image.Image, output_format: str = "PNG", **options: Any) -> bytes:
    """`image` as a file."""
    target = io.BytesIO()
    image.save(target, output_format, **options)
    return target.getvalue()


def landscape(width: int = 768, height: int = 512, hue: int = 0) -> Image.Image:
    """A picture that is no two pixels alike for long: two gradients and a disc, coloured by `hue`."""
    across = Image.linear_gradient("L").rotate(90).resize((width, height))
    down = Image.linear_gradient("L").resize((width, height))
    ImageDraw.Draw(across).ellipse((width // 4, height // 4, width * 3 // 4, height * 3 // 4), fill=40)
    bands = [across, down, Image.new("L", (width, height), 90)]
    return Image.merge("RGB", [bands[(hue + band) % 3] for band in range(3)])


def mask_of(width: int, height: int, box: tuple[int, int, int, int]) -> bytes:
    """A mask's file: transparent inside `box` (left, top, right, bottom; exclusive), opaque elsewhere."""
    mask = Image.new("RGBA", (width, height), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), box)
    return encoded(mask)


def launch(**settings: Any) -> subprocess.Popen[str]:
    """The process of a simulator with these settings, not waited for."""
    return subprocess.Popen(
        [sys.executable, "-c", _MAIN, json.dumps(settings)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextlib.contextmanager
def running(**settings: Any) -> Iterator[Peer]:
    """A simulator for the length of a `with` block; what it wrote to stderr has to be nothing."""
    process = launch(**settings)
    try:
        assert process.stdout
        url = process.stdout.readline().strip()
        assert url.startswith("http://"), process.communicate()[1]
        yield Peer(url, process)
        if process.returncode is None:
            _, errors = process.communicate("", timeout=30)
            assert errors == "", errors
    finally:
        process.kill()
        process.communicate()
