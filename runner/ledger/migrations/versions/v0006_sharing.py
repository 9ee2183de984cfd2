"""What several hosts share: where a job's files are, the cap of a whole ledger, the pace of a provider key."""

import sqlalchemy as sa
from alembic import op

from runner.ledger.tables import NUMBER

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("output", sa.Text(), nullable=True))
    op.create_table(
        "caps",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("per", sa.String(), nullable=False),
        sa.Column("microusd", sa.BigInteger(), nullable=False),
        sa.Column("set_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("id = 1", name="ck_caps_one"),
        sa.CheckConstraint("microusd >= 0", name="ck_caps_amount"),
        sa.CheckConstraint("per IN ('ever', 'day', 'month')", name="ck_caps_per"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "cap_periods",
        sa.Column("id", NUMBER, nullable=False),
        sa.Column("simulated", sa.Boolean(), nullable=False),
        sa.Column("start_ms", sa.BigInteger(), nullable=False),
        sa.Column("end_ms", sa.BigInteger(), nullable=False),
        sa.Column("committed_microusd", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("simulated", "start_ms", name="uq_cap_periods_start"),
    )
    instants = ("place_at", "images_at", "requests_at", "tokens_at", "hold_until", "slowed_at")
    tempo = ("broke", "fall", "passed", "before", "recovery", "whole")
    op.create_table(
        "paces",
        sa.Column("id", NUMBER, nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        *(sa.Column(name, sa.Float(), nullable=True) for name in ("images", "requests", "tokens")),
        sa.Column("lead_s", sa.Float(), nullable=False),
        *(sa.Column(name, sa.Double(), nullable=False, server_default="0") for name in instants),
        *(sa.Column(name, sa.Float(), nullable=False) for name in tempo),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("key"),
    )
    op.create_table(
        "paced_runs",
        sa.Column("id", NUMBER, nullable=False),
        sa.Column("pace_row", NUMBER, nullable=False),
        sa.Column("run", sa.String(), nullable=False),
        *(sa.Column(name, sa.Float(), nullable=True) for name in ("images", "requests", "tokens")),
        sa.Column("lead_s", sa.Float(), nullable=False),
        sa.Column("seen_at", sa.Double(), nullable=False, server_default="0"),
        sa.ForeignKeyConstraint(["pace_row"], ["paces.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("pace_row", "run", name="uq_paced_runs_run"),
    )
