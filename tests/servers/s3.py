"""A server that speaks S3's protocol, in a process of its own, for the tests: `moto` in server mode.

    with s3() as server:
        url = server.bucket("images")   # s3://images-1; `environment()` says how clients find the server

Owns the process and the environment by which any S3 client finds it.
"""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count

from tests.servers.ports import free_port

KEY, SECRET = "test-key-id", "test-secret"


@dataclass(slots=True)
class S3:
    """A server that runs. `endpoint` is its URL."""

    endpoint: str
    pid: int
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def environment(self, endpoint: str | None = None) -> dict[str, str]:
        """The variables by which clients find it, at `endpoint` if something stands between."""
        return {
            "AWS_ENDPOINT_URL": endpoint or self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def bucket(self, name: str = "images") -> str:
        """A new, empty bucket; its URL."""
        fresh = f"{name}-{os.getpid()}-{next(self._numbers)}"
        connection = http.client.HTTPConnection(self.endpoint.removeprefix("http://"), timeout=10)
        connection.request("PUT", f"/{fresh}")
        assert connection.getresponse().status == 200
        connection.close()
        return f"s3://{fresh}"


@contextmanager
def s3() -> Iterator[S3]:
    """A server for the block."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(300):
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                connection.request("GET", "/moto-api/")
                connection.getresponse().read()
                break
            except OSError:
                if process.poll() is not None:
                    raise RuntimeError("moto's server ended; is moto[server] installed?") from None
                time.sleep(0.1)
        yield S3(f"http://127.0.0.1:{port}", process.pid)
    finally:
        process.kill()
        process.wait()
