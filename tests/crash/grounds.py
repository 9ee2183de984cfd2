"""Where a round plays: a ledger's database and a place for files, new for each round, as one from outside sees them.

    with grounds("postgres+s3") as make:
        ground = make(folder)      # a database and a bucket that nobody has used

Owns how each is made, how a run is told of it, and how its rows and bytes are read without the runner. A host is a
process's state, cache and spool folders: where files are in a bucket and the ledger is on a server, a job may go on
from another one. Refuses to know the laws.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Protocol

from tests.crash.laws import Books, Row, files_below
from tests.servers.postgres import PASSWORD, USER, Server, cluster
from tests.servers.s3 import KEY, S3, SECRET, s3
from tests.servers.s3_faults import Kind, Proxy, faulty

LEDGERS, FILES = ("sqlite", "postgres"), ("folder", "s3")
HOME = "sqlite+folder"
"""The ground of one machine."""
PLACES = tuple(f"{ledger}+{files}" for ledger in LEDGERS for files in FILES)
HOSTS = ("here", "elsewhere")
_PATIENCE_S = 20.0
_FOR_EVER = 1 << 30
_FAULTS: tuple[tuple[Kind, str], ...] = (
    *(("slow_down", "ANY"), ("reset_request", "PUT"), ("reset_answer", "PUT"), ("wrong_checksum", "PUT")),
    *(("damaged_answer", "GET"), ("cut_answer", "GET"), ("slow", "ANY")),
)
"""What can go wrong with a store, and with which requests.

Not a damaged upload: S3 refuses what does not have its checksum, and the server of these tests keeps it, so that a kill
before it is looked at leaves what no S3 would have.
"""


class LedgerSide(Protocol):
    """The database of a round's ledger."""

    is_shared: bool

    def environment(self) -> dict[str, str]:
        """How a run is told of it."""
        ...

    def books(self) -> Books:
        """Every row; what the dead have sent has taken effect, or never will."""
        ...

    def cut(self) -> int:
        """Break the connections that runs have with it; how many there were."""
        ...

    def close(self) -> None:
        """Give its room back."""
        ...


class FileSide(Protocol):
    """The place of a round's files. Paths are relative to the output place."""

    output: str
    is_shared: bool

    def environment(self) -> dict[str, str]:
        """How a run is told of it, beside `--output`."""
        ...

    def files(self) -> dict[str, str]:
        """The SHA-256 of each."""
        ...

    def temporaries(self, spool: Path) -> dict[int, str]:
        """The SHA-256 of what lies under a temporary name, by the attempt that it was received for."""
        ...

    def left(self, spool: Path) -> list[str]:
        """Files that nothing should have left behind."""
        ...

    def log(self, job: str, run_id: int, spool: Path) -> str:
        """The log of a run as far as it is on disk, or where the store has put it."""
        ...

    def harm(self, dice: random.Random) -> None:
        """Let some of what is asked of it go wrong from now on."""
        ...

    def heal(self) -> int:
        """From now on all goes well; how much went wrong since `harm`."""
        ...

    def close(self) -> None:
        """Give its room back."""
        ...


class Ground:
    """One round's ledger and files, and the host that works on them."""

    def __init__(self, name: str, folder: Path, ledger: LedgerSide, files: FileSide) -> None:
        self.name = name
        self.folder = folder
        self.ledger = ledger
        self.files = files
        self.host = HOSTS[0]

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts that could go on with a job of this ground."""
        return HOSTS if self.ledger.is_shared and self.files.is_shared else HOSTS[:1]

    @property
    def output(self) -> str:
        """What `--output` is given."""
        return self.files.output

    def environment(self) -> dict[str, str]:
        """What a run finds in its environment beside what every run does."""
        if self.name == HOME:
            return {}
        return of_host(self._host) | self.ledger.environment() | self.files.environment()

    @property
    def spool(self) -> Path:
        """Where the host that works has what is not in the bucket yet."""
        return Path(of_host(self._host)["RUNNER_SPOOL"])

    @property
    def _host(self) -> Path:
        return self.folder / "hosts" / self.host

    def temporaries(self) -> dict[int, str]:
        """What lies under a temporary name on the host that works."""
        return self.files.temporaries(self.spool)

    def left(self) -> list[str]:
        """Files that nothing should have left behind on the host that works."""
        return self.files.left(self.spool)

    def log(self, job: str, run_id: int) -> str:
        """The log of a run of the host that works."""
        return self.files.log(job, run_id, self.spool)

    def close(self) -> None:
        """Give back what the round has used, but for its folder."""
        self.ledger.close()
        self.files.close()


class SqliteFile:
    """A ledger in a file."""

    is_shared = False

    def __init__(self, path: Path) -> None:
        self._path = path

    def environment(self) -> dict[str, str]:
        return {"RUNNER_LEDGER": str(self._path)}

    def books(self) -> Books:
        return Books.copied(self._path)

    def cut(self) -> int:
        return 0

    def close(self) -> None:
        return None


class PostgresDatabase:
    """A ledger in a database of its own on a server."""

    is_shared = True

    def __init__(self, server: Server) -> None:
        self._server = server
        self.url = server.database("round")
        self._name = self.url.rpartition("/")[2]

    def environment(self) -> dict[str, str]:
        return {"RUNNER_LEDGER": self.url}

    def books(self) -> Books:
        self.rest()
        return self.snapshot()

    def snapshot(self) -> Books:
        """Every row at one instant, whoever works on them."""
        import psycopg
        from psycopg.rows import dict_row

        where = f"host=127.0.0.1 port={self._server.port} user={USER} password={PASSWORD} dbname={self._name}"
        with psycopg.connect(where, row_factory=dict_row) as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ

            def rows(query: str) -> list[Row]:
                return list(connection.execute(query.encode()).fetchall())

            if rows("SELECT to_regclass('assets') AS found") == [{"found": None}]:
                return Books()
            return Books.of(rows)

    def rest(self) -> None:
        """Wait until nobody is connected: what a dead process has sent is done by then, or was rolled back."""
        query = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{self._name}'"
        deadline = time.monotonic() + _PATIENCE_S
        while self._server.run(query) != [(0,)]:
            assert time.monotonic() < deadline, "connections of the dead are still there"
            time.sleep(0.01)

    def cut(self) -> int:
        query = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{self._name}'"
        return len(self._server.run(query))

    def close(self) -> None:
        self._server.drop(self.url)


class Folder:
    """Files in a folder."""

    is_shared = False

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.output = str(folder)

    def environment(self) -> dict[str, str]:
        return {}

    def files(self) -> dict[str, str]:
        return files_below(self._folder) if self._folder.exists() else {}

    def temporaries(self, spool: Path) -> dict[int, str]:
        parts = {Path(path): digest for path, digest in self.files().items() if _is_temporary(path, ".partial")}
        return _by_attempt(parts)

    def left(self, spool: Path) -> list[str]:
        return []  # all of it is below the folder, where whoever looks at its files sees it

    def harm(self, dice: random.Random) -> None:
        return None

    def heal(self) -> int:
        return 0

    def log(self, job: str, run_id: int, spool: Path) -> str:
        path = self._folder / job / "logs" / f"run-{run_id:06d}.jsonl"
        return path.read_text() if path.exists() else ""

    def close(self) -> None:
        return None


class Bucket:
    """Files below a prefix of a bucket; what is on its way there lies in the spool of the host that has it."""

    is_shared = True

    def __init__(self, server: S3, proxy: Proxy | None = None) -> None:
        """With a proxy, which runs ask instead of the server while it is harmed."""
        import boto3  # type: ignore[import-untyped]  # it has no types
        from botocore.config import Config

        self._server = server
        self._proxy = proxy
        self._harmed: int | None = None
        self.output = f"{server.bucket('round')}/of/images"
        self._bucket = self.output.removeprefix("s3://").partition("/")[0]
        self._prefix = "of/images/"
        self._client = boto3.client(
            "s3",
            endpoint_url=server.endpoint,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
            # Whatever the bytes are, they are what is to be looked at.
            config=Config(response_checksum_validation="when_required"),
        )
        self._digests: dict[str, str] = {}

    def environment(self) -> dict[str, str]:
        is_harmed = self._proxy is not None and self._harmed is not None
        return self._server.environment(self._proxy.endpoint if self._proxy and is_harmed else None)

    def harm(self, dice: random.Random) -> None:
        if self._proxy is None:
            return
        self._harmed = len(self._proxy.failed)
        for kind, method in dice.sample(_FAULTS, dice.randint(1, 3)):
            # Of puts those of images alone: their bytes are what cannot be had again.
            match, share, seed = ("/images/" if method == "PUT" else ""), dice.uniform(0.05, 0.2), dice.getrandbits(32)
            self._proxy.fail(kind, times=_FOR_EVER, method=method, match=match, share=share, seed=seed)

    def heal(self) -> int:
        if self._proxy is None or self._harmed is None:
            return 0
        self._proxy.heal()
        count, self._harmed = len(self._proxy.failed) - self._harmed, None
        return count

    def files(self) -> dict[str, str]:
        return {name.removeprefix(self._prefix): self._digest(name, tag) for name, tag in self._names()}

    def strays(self) -> list[str]:
        """Names in the bucket that are not below the prefix."""
        return [name for name, _ in self._names() if not name.startswith(self._prefix)]

    def temporaries(self, spool: Path) -> dict[int, str]:
        return _by_attempt({Path(path): digest for path, digest in _spooled(spool).items()})

    def left(self, spool: Path) -> list[str]:
        uploads = self._client.list_multipart_uploads(Bucket=self._bucket).get("Uploads", [])
        found = [f"an upload of {upload['Key']}" for upload in uploads]
        found += [f"outside the prefix: {name}" for name in self.strays()]
        found += [path for path in self.files() if _is_temporary(path, ".partial", ".batches")]
        return found + [f"in the spool: {path}" for path in _spooled(spool)]

    def log(self, job: str, run_id: int, spool: Path) -> str:
        name = f"run-{run_id:06d}.jsonl"
        for path in spool.rglob(name):
            with suppress(FileNotFoundError):
                return path.read_text()
        with suppress(self._client.exceptions.NoSuchKey):
            found = self._client.get_object(Bucket=self._bucket, Key=f"{self._prefix}{job}/logs/{name}")
            return str(found["Body"].read().decode())
        return ""

    def close(self) -> None:
        names = [{"Key": name} for name, _ in self._names()]
        for at in range(0, len(names), 1000):
            self._client.delete_objects(Bucket=self._bucket, Delete={"Objects": names[at : at + 1000]})
        self._client.close()

    def _names(self) -> list[tuple[str, str]]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket)
        return [(each["Key"], each["ETag"]) for page in pages for each in page.get("Contents", [])]

    def _digest(self, name: str, tag: str) -> str:
        """The hash of what lies there; what has one tag of the server's was read once."""
        if tag not in self._digests:
            body = self._client.get_object(Bucket=self._bucket, Key=name)["Body"]
            self._digests[tag] = hashlib.sha256(body.read()).hexdigest()
        return self._digests[tag]


def of_host(folder: Path) -> dict[str, str]:
    """How a run is told of the folders of its host."""
    return {
        "XDG_STATE_HOME": str(folder / "state"),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "RUNNER_SPOOL": str(folder / "spool"),
    }


def _is_temporary(path: str, *folders: str) -> bool:
    return path.split("/")[1:2] in [[folder] for folder in folders]


def _by_attempt(parts: Mapping[Path, str]) -> dict[int, str]:
    return {int(path.stem): digest for path, digest in parts.items() if path.suffix == ".part" and path.stem.isdigit()}


def _spooled(spool: Path) -> dict[str, str]:
    """What lies in a spool, but for locks and the logs of runs."""
    found = files_below(spool) if spool.exists() else {}
    return {path: digest for path, digest in found.items() if not path.endswith((".lock", ".jsonl"))}


@contextmanager
def grounds(name: str) -> Iterator[Callable[[Path], Ground]]:
    """The servers of one kind of ground for a block: how a new one is made in a round's folder.

    Raises:
        RuntimeError: there is no PostgreSQL on this machine.
    """
    ledgers, _, files = name.partition("+")
    assert name in PLACES, name
    with ExitStack() as stack:
        server = stack.enter_context(cluster()) if ledgers == "postgres" else None
        store = stack.enter_context(s3()) if files == "s3" else None
        proxy = stack.enter_context(faulty(store.endpoint)) if store else None

        def make(folder: Path) -> Ground:
            output = folder / "output"
            return Ground(
                name,
                folder,
                PostgresDatabase(server) if server else SqliteFile(output / "ledger.sqlite3"),
                Bucket(store, proxy) if store else Folder(output),
            )

        yield make


def preload(name: str) -> tuple[str, ...]:
    """Modules that a run on this kind of ground reads sooner or later."""
    ledgers, _, files = name.partition("+")
    found: tuple[str, ...] = ()
    if ledgers == "postgres":
        found += ("psycopg", "sqlalchemy.dialects.postgresql.psycopg")
    if files == "s3":
        found += ("fsspec", "s3fs", "aiobotocore.session", "aiobotocore.httpsession")
    return found


def at_home(folder: Path) -> Ground:
    """The ground of one machine: a ledger and images below one output folder."""
    output = folder / "output"
    return Ground(HOME, folder, SqliteFile(output / "ledger.sqlite3"), Folder(output))
