"""Inputs that lie at a provider, and until when.

Owns what is on record of them. Refuses to know what they show: they are known by their identity.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from runner.ledger.bulk import Bulk
from runner.ledger.tables import metadata

_remote = metadata.tables["remote_files"]

_ADD = Bulk(
    "remote_files",
    ("base_url", "identity", "file_id", "created_ms", "expires_ms"),
    # Of two hosts that have uploaded it at once, either may be named.
    conflict="(base_url, identity) DO NOTHING",
)


def remote_files(connection: sa.Connection, base_url: str, identities: Sequence[str], good_ms: int) -> dict[str, str]:
    """The ids of the inputs that lie at a provider, of these identities (at most CHUNK), until `good_ms` at least."""
    rows = connection.execute(
        sa.select(_remote.c.identity, _remote.c.file_id).where(
            _remote.c.base_url == base_url,
            _remote.c.identity.in_(identities),
            sa.or_(_remote.c.expires_ms.is_(None), _remote.c.expires_ms >= good_ms),
        )
    )
    return {row.identity: row.file_id for row in rows}


def remember(
    connection: sa.Connection, base_url: str, identity: str, file_id: str, *, expires_ms: int | None, now_ms: int
) -> None:
    """An input lies at a provider now."""
    where = sa.and_(_remote.c.base_url == base_url, _remote.c.identity == identity)
    connection.execute(sa.delete(_remote).where(where))
    _ADD(connection, [(base_url, identity, file_id, now_ms, expires_ms)])
