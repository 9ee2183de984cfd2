"""Brings a database's schema to the version that this code reads and writes.

Owns the way there: an older schema by its migrations, an empty database at once. Refuses to judge what it finds
(`soundness` does) and to hold a transaction of its own.
"""

from __future__ import annotations

import importlib.resources

import sqlalchemy as sa

from runner.ledger.soundness import HEAD
from runner.ledger.tables import metadata


def bring(connection: sa.Connection, found: str | None) -> None:
    """Make the schema that of `HEAD`, from the version `found`; None is an empty database."""
    if found is None:
        _create(connection)
    else:
        _upgrade(connection)


def _create(connection: sa.Connection) -> None:
    """What all migrations lead to; a test holds the two together. To read Alembic's modules takes longer than this."""
    metadata.create_all(connection, checkfirst=False)
    connection.execute(
        sa.text(
            "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL CONSTRAINT alembic_version_pkc PRIMARY KEY)"
        )
    )
    connection.execute(sa.text("INSERT INTO alembic_version VALUES (:head)"), {"head": HEAD})


def _upgrade(connection: sa.Connection) -> None:
    from alembic import command
    from alembic.config import Config

    with importlib.resources.as_file(importlib.resources.files("runner.ledger") / "migrations") as scripts:
        config = Config()
        config.set_main_option("script_location", str(scripts).replace("%", "%%"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
