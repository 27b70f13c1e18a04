"""Turns of tenants in every queue, with indexes for a look at who waits, and rest for webhooks that fail."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

TIME = postgresql.TIMESTAMP(timezone=True)
WAITING = dict.fromkeys(("generations", "exports", "evaluations", "estimates"), "queued") | {"datasets": "checking"}
REPLACED = ("generations", "evaluations", "estimates")  # their indexes of the status

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "turns",
        sa.Column("tenant_id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("served_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_turns_tenant_id_tenants"),
        sa.PrimaryKeyConstraint("tenant_id", "kind", name="pk_turns"),
    )
    op.execute("DELETE FROM estimates WHERE tenant_id IS NULL")  # a cache: they are computed again
    op.alter_column("estimates", "tenant_id", nullable=False)
    for table in REPLACED:
        op.drop_index(f"ix_{table}_status", table)
    for table, status in WAITING.items():
        waits, at_work = sa.text(f"status = '{status}'"), sa.text("lease_token IS NOT NULL")
        op.create_index(f"ix_{table}_waiting", table, ["tenant_id", "id"], postgresql_where=waits)
        op.create_index(f"ix_{table}_at_work", table, ["tenant_id"], postgresql_where=at_work)
    op.add_column("webhooks", sa.Column("failures", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("webhooks", sa.Column("rests_until", TIME, nullable=True))
    due = sa.text("next_try_at IS NOT NULL")
    op.drop_index("ix_webhook_deliveries_next_try_at", "webhook_deliveries")
    op.create_index("ix_webhook_deliveries_due", "webhook_deliveries", ["webhook_id", "next_try_at"], postgresql_where=due)


def downgrade() -> None:
    due = sa.text("next_try_at IS NOT NULL")
    op.drop_index("ix_webhook_deliveries_due", "webhook_deliveries")
    op.create_index("ix_webhook_deliveries_next_try_at", "webhook_deliveries", ["next_try_at"], postgresql_where=due)
    op.drop_column("webhooks", "rests_until")
    op.drop_column("webhooks", "failures")
    for table in WAITING:
        op.drop_index(f"ix_{table}_waiting", table)
        op.drop_index(f"ix_{table}_at_work", table)
    for table in REPLACED:
        op.create_index(f"ix_{table}_status", table, ["status"])
    op.alter_column("estimates", "tenant_id", nullable=True)
    op.drop_table("turns")
