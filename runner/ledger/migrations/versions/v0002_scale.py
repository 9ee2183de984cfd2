"""What makes a large ledger quick: indices that hold whole sums, and marks of what need not be looked at again."""

import sqlalchemy as sa
from alembic import op

from runner.ledger.tables import NUMBER

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("tidied_revision", sa.Integer(), server_default="0", nullable=False))
    op.add_column("jobs", sa.Column("offered_run", NUMBER, server_default="0", nullable=False))
    op.drop_index("ix_attempts_job", "attempts")
    op.drop_index("ix_attempts_run", "attempts")
    op.create_index(
        "ix_attempts_spent", "attempts", ["job_id", "simulated", "begun_ms", "cost_microusd", "doubt_microusd"]
    )
    op.create_index(
        "ix_attempts_run", "attempts", ["run_id", "job_id", "simulated", "outcome", "cost_microusd", "doubt_microusd"]
    )
    _partial(
        "ix_attempts_doubt",
        "attempts",
        ["job_id", "simulated", "ended_ms", "doubt_microusd"],
        "doubt_microusd IS NOT NULL",
    )
    _partial("ix_attempts_unsent", "attempts", ["run_id", "error_code"], "error_code = 'not_sent'")
    _partial("ix_assets_reused", "assets", ["reused_from", "task_id"], "reused_from IS NOT NULL")


def _partial(name: str, table: str, columns: list[str], where: str) -> None:
    op.create_index(name, table, columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
