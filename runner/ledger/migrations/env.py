"""Runs the migrations on the connection that `ledger.database` hands over; never on one of its own."""

from alembic import context

from runner.ledger.tables import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
