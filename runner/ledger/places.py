"""Where a ledger is: a file, or the database of a PostgreSQL server.

Owns how a user names it, and that what is said of a server never has its password. Refuses to open either.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from runner.errors import InputError

_SCHEMES = ("postgresql", "postgres", "postgresql+psycopg")
_TOLD = ("host", "port", "user", "dbname", "service", "sslmode", "target_session_attrs", "options")
"""Of what follows `?` in a server's URL, this may be told; all else (passwords, key files) stays untold."""
_HIDDEN = "***"


@dataclass(frozen=True, slots=True, repr=False)
class Server:
    """The database of a PostgreSQL server, by its URL; `str()` and `repr()` are without what is secret in that."""

    url: str

    def __str__(self) -> str:
        found = urlsplit(self.url)
        host = found.netloc.rpartition("@")[2]
        user = found.netloc.rpartition("@")[0].partition(":")[0]
        told = urlencode([(name, value) for name, value in parse_qsl(found.query) if name in _TOLD])
        return f"{found.scheme}://{user}{'@' if user else ''}{host}{found.path}{'?' if told else ''}{told}"

    def __repr__(self) -> str:
        return f"Server({str(self)!r})"

    def redacted(self, text: str) -> str:
        """`text` without any secret of this server, in whichever form a driver may have put it there."""
        for secret in sorted(self._secrets(), key=len, reverse=True):
            text = text.replace(secret, _HIDDEN)
        return text

    def _secrets(self) -> set[str]:
        found = urlsplit(self.url)
        given = [found.netloc.rpartition("@")[0].partition(":")[2]]
        given += [value for name, value in parse_qsl(found.query) if "pass" in name]
        return {form for secret in given for form in (secret, unquote(secret), quote(unquote(secret))) if form}


Place: TypeAlias = Path | Server
"""Where a ledger is; `str()` is fit for messages."""


def locate(ledger: str | None, output: Path) -> Place:
    """The ledger's place from what the user gave: a path, `sqlite:///PATH`, a PostgreSQL URL, or nothing for the
    output folder's own.

    Raises:
        InputError: a URL of a database that this version does not know, or of none.
    """
    if ledger is None:
        return output / "ledger.sqlite3"
    if ledger.startswith("sqlite:///"):
        return Path(ledger.removeprefix("sqlite:///"))
    scheme, is_url, _ = ledger.partition("://")
    if not is_url:
        return Path(ledger)
    if scheme not in _SCHEMES:
        raise InputError(
            f"a ledger at {scheme}:// is not supported",
            hint="use a path, sqlite:///PATH or postgresql://USER@HOST/DATABASE",
        )
    return _server(ledger)


def _server(url: str) -> Server:
    try:
        found = urlsplit(url)
        port, database = found.port, found.path.strip("/")
    except ValueError:
        port, database = None, ""
    # A password with a `/`, `?` or `#` of its own ends what comes before the host; only its quoted form is one.
    if not database or port == 0 or "@" in found.path + found.query.partition("options=")[0] + found.fragment:
        raise InputError(
            "the ledger's URL is not one of a PostgreSQL database",
            hint="write postgresql://USER:PASSWORD@HOST:PORT/DATABASE; in the password, / is %2F, @ is %40, # is %23, "
            "? is %3F, : is %3A and % is %25 (or leave it out, and set PGPASSWORD)",
        )
    return Server(url)
