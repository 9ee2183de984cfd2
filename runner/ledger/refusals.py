"""What a PostgreSQL server's refusals mean to a user: what is wrong, and what to do next.

Owns the translation of psycopg's words into LedgerError, and which of them may pass. Refuses to know who asked for
what, and never tells a password.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy import exc

from runner.errors import InputError, LedgerError, RunnerError
from runner.ledger.database import Undone
from runner.ledger.failures import rules
from runner.ledger.places import Server
from runner.ledger.types import Nonsense

_AGAIN: Final = ("40001", "40P01")
"""Two writers were in each other's way: one of them was undone, and may try again."""
_DAMAGED: Final = ("is damaged", "restore the database from a backup: nothing was overwritten")
_BY_STATE: Final[tuple[tuple[str, tuple[str, str]], ...]] = (
    ("55P03", ("is held by another process", "wait for it to end, then run again: nothing is lost")),
    ("57014", ("took too long to answer", "look at the server's load, then run again: nothing is lost")),
    ("53100", ("cannot grow: the server's disk is full", "make space there, then run again: it goes on")),
    ("53", ("is on a server that is overloaded", "look at its limits (max_connections, memory), then run again")),
    ("25006", ("cannot be written: its server only reads", "name the primary server, not a standby")),
    ("42501", ("may not be used so by this user", "have these rights granted (GRANT ...), or name another user")),
    ("3F000", ("has no schema to be in", "name one that is there in the URL: ?options=-csearch_path%3DNAME")),
    ("42P01", _DAMAGED),
    ("42703", _DAMAGED),
    ("XX", _DAMAGED),
)
# The server's answer to who connects has no code that libpq would hand on, only its words.
_BY_WORDS: Final[tuple[tuple[str, str], ...]] = (
    ("password authentication failed", "check the user and the password: in the URL, in PGPASSWORD or in ~/.pgpass"),
    ("no password supplied", "give one in the URL, in PGPASSWORD or in ~/.pgpass"),
    ("no pg_hba.conf entry", "the server does not let this user in from here: ask who runs it"),
    ("does not exist", "make it first (for a database: createdb), or name another with --ledger"),
    ("permission denied", "have the right to connect granted (GRANT CONNECT ON DATABASE ...), or name another user"),
    ("too many clients", "wait until others have ended, or raise max_connections there"),
    ("remaining connection slots", "wait until others have ended, or raise max_connections there"),
    ("Connection refused", "see that the server runs and that host and port are right"),
    ("could not translate host name", "check the host in the URL"),
    ("failed to resolve host", "check the host in the URL"),
    ("timeout", "see that the server can be reached from here: its address, the firewall"),
)


@contextmanager
def translated(server: Server) -> Iterator[None]:
    """Turn the server's refusals into LedgerError, and what may be tried again into Undone."""
    try:
        with rules(server):
            yield
    except exc.DBAPIError as error:
        raise _explain(server, error) from error
    except (Nonsense, UnicodeDecodeError) as error:
        raise LedgerError(f"the ledger {server} {_DAMAGED[0]} ({error})", hint=_DAMAGED[1]) from error


def is_away(error: Exception) -> bool:
    """Whether a server that was there is not, for now: it is started anew, or cannot be reached, or is about to end."""
    if isinstance(error, Undone):
        return True
    if not isinstance(error, exc.DBAPIError):
        return False
    state = getattr(error.orig, "sqlstate", None)
    # Whoever could connect a while ago and cannot now meets a server that is on its way down or up.
    return error.connection_invalidated or state is None or state.startswith(("08", "57P", "53300"))


def unreachable(server: Server, error: exc.DBAPIError, *, was_there: bool) -> RunnerError:
    """No connection could be made, though `was_there` says that one could before."""
    text = _words(server, error)
    if was_there:
        return LedgerError(
            f"the ledger {server} cannot be reached any more: {text}",
            hint="run again when the server is back: it goes on from what is on record",
        )
    hint = next((hint for sign, hint in _BY_WORDS if sign in text), "check the URL, and that the server runs")
    return InputError(f"the ledger {server} cannot be reached: {text}", hint=hint)


def _explain(server: Server, error: exc.DBAPIError) -> LedgerError:
    state = getattr(error.orig, "sqlstate", None) or ""
    if is_away(error):
        return Undone(
            f"the ledger {server} was lost in the middle of a change ({_words(server, error)})",
            hint="run again when the server is back: nothing of that change was made",
        )
    if state in _AGAIN:
        return Undone(
            f"the ledger {server} was changed by two at once, and this change was undone ({_words(server, error)})",
            hint="run it again: nothing of that change was made",
        )
    message, hint = next(
        (words for sign, words in _BY_STATE if state.startswith(sign)),
        ("refused what it was asked", "look at the server's log; `runner doctor` checks the ledger"),
    )
    return LedgerError(f"the ledger {server} {message} ({_words(server, error)})", hint=hint)


def _words(server: Server, error: exc.DBAPIError) -> str:
    """What the driver says, in one line, without what is secret."""
    diag = getattr(error.orig, "diag", None)
    text = (diag.message_primary if diag is not None else None) or str(error.orig)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return server.redacted(lines[-1] if lines else type(error.orig).__name__)
