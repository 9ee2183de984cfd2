"""Alembic's migrations of the ledger: one plain function a version, never edited once released."""
