"""A PostgreSQL cluster for the tests: made from the machine's own programs, on a port of its own, gone afterwards.

    with cluster() as server:            # one for many tests: to start it takes a second or two
        url = server.database("ledger")  # a new, empty database: postgresql+psycopg://...

Owns where the programs are looked for, and that nothing of the cluster is left. `python -m tests.servers.postgres`
says whether they are there.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from tests.servers.ports import free_port

ABSENT = "PostgreSQL's server is not on this machine: install it (on Debian: apt install postgresql)"
USER, PASSWORD = "runner", "not-a-secret"
_PLACES = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql*/bin")
_SETTINGS = """
listen_addresses = '127.0.0.1'
max_connections = 200
shared_buffers = 64MB
logging_collector = off
fsync = off
"""
"""Without flushes: what the tests are about is neither the disk nor the power."""


def programs() -> Path | None:
    """The folder of the server's programs, the newest version of them; None where there is none."""
    found = [path.parent for place in _PLACES for path in Path("/").glob(f"{place[1:]}/initdb")]
    if found:
        return max(
            found, key=lambda path: [int(n) for n in "".join(c if c.isdigit() else " " for c in str(path)).split()]
        )
    there = shutil.which("initdb")
    return None if there is None else Path(there).resolve().parent


@dataclass(slots=True)
class Server:
    """One cluster that runs. `pid` is the postmaster's."""

    port: int
    folder: Path
    pid: int
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def url(self, database: str = "postgres") -> str:
        """The address of one of its databases."""
        return f"postgresql+psycopg://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def run(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Execute one statement by itself; what it returns, if it returns rows."""
        import psycopg

        address = f"host=127.0.0.1 port={self.port} user={USER} password={PASSWORD} dbname={database}"
        with psycopg.connect(address, autocommit=True) as connection:
            found = connection.execute(statement.encode())
            return list(found.fetchall()) if found.description is not None else []

    def database(self, name: str = "ledger") -> str:
        """A new, empty database; its address. The name gets a number, so that each is another."""
        fresh = f"{name}_{os.getpid()}_{next(self._numbers)}"
        self.run(f'CREATE DATABASE "{fresh}"')
        return self.url(fresh)

    def drop(self, url: str) -> None:
        """Remove a database, whoever uses it."""
        self.run(f'DROP DATABASE IF EXISTS "{url.rpartition("/")[2]}" WITH (FORCE)')


@contextmanager
def cluster(settings: str = _SETTINGS) -> Iterator[Server]:
    """A cluster for the block; RuntimeError where the programs are absent."""
    bin_folder = programs()
    if bin_folder is None:
        raise RuntimeError(ABSENT)
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    # The server refuses to run as root.
    user = "postgres" if os.geteuid() == 0 else None
    process: subprocess.Popen[bytes] | None = None
    try:
        if user is not None:
            shutil.chown(folder, user)
        data, port = folder / "data", free_port()
        password = folder / "password"
        password.write_text(PASSWORD)
        told = {"user": user, "cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "check": True}
        command = [bin_folder / "initdb", "-D", data, "-U", USER, "--pwfile", password, "-A", "scram-sha-256"]
        subprocess.run([*command, "-E", "UTF8", "--locale=C", "-N"], **told)  # type: ignore[call-overload]
        with (data / "postgresql.conf").open("a") as file:
            file.write(f"{settings}\nport = {port}\nunix_socket_directories = '{folder}'\n")
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [bin_folder / "postgres", "-D", data], user=user, cwd=folder, stdout=log, stderr=log
            )
        server = Server(port, folder, process.pid)
        _wait(server, process)
        yield server
    finally:
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGQUIT)  # at once: nothing of it is kept
            process.wait(timeout=30)
        shutil.rmtree(folder, ignore_errors=True)


def _wait(server: Server, process: subprocess.Popen[bytes]) -> None:
    import psycopg

    for _ in range(300):
        try:
            server.run("SELECT 1")
        except psycopg.OperationalError:
            if process.poll() is not None:
                raise RuntimeError(f"PostgreSQL ended: {(server.folder / 'log').read_text()}") from None
            time.sleep(0.1)
        else:
            return
    raise RuntimeError("PostgreSQL does not answer")


if __name__ == "__main__":
    where = programs()
    print(ABSENT if where is None else where)
    sys.exit(where is None)
