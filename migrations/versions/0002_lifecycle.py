"""What the whole lifecycle of a job needs: its place in a fair queue, its time limit, its initial values; and deletion."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

TIME = postgresql.TIMESTAMP(timezone=True)

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tenants", sa.Column("served_at", TIME, nullable=True))
    op.drop_column("jobs", "cancel_requested")  # the status says it: cancelling
    op.add_column("jobs", sa.Column("init_adapter_id", sa.String(), nullable=True))
    op.create_foreign_key("fk_jobs_init_adapter_id_adapters", "jobs", "adapters", ["init_adapter_id"], ["id"])
    # Defaults of the server fill the rows that are there; later rows get theirs from the code.
    op.add_column("jobs", sa.Column("priority", sa.BigInteger(), server_default="0", nullable=False))
    op.alter_column("jobs", "priority", server_default=None)
    op.add_column("jobs", sa.Column("max_duration", sa.BigInteger(), nullable=True))
    op.add_column("jobs", sa.Column("seconds_used", sa.Double(), server_default="0", nullable=False))
    op.alter_column("jobs", "seconds_used", server_default=None)
    op.add_column("jobs", sa.Column("claimed_at", TIME, nullable=True))
    op.add_column("jobs", sa.Column("deleted_at", TIME, nullable=True))
    op.create_index("ix_jobs_dataset_id", "jobs", ["dataset_id"])
    op.create_index(
        "ix_jobs_lease_expires_at", "jobs", ["lease_expires_at"], postgresql_where=sa.text("lease_expires_at IS NOT NULL")
    )
    op.create_index(
        "ix_jobs_waiting",
        "jobs",
        ["tenant_id", sa.text("priority DESC"), "id"],
        postgresql_where=sa.text("status = 'queued'"),
    )
    op.add_column("adapters", sa.Column("deleted_at", TIME, nullable=True))
    for table in ("checkpoints", "adapters", "images"):
        op.create_index(f"ix_{table}_object_key", table, ["object_key"])


def downgrade() -> None:
    for table in ("checkpoints", "adapters", "images"):
        op.drop_index(f"ix_{table}_object_key", table_name=table)
    op.drop_column("adapters", "deleted_at")
    op.drop_index("ix_jobs_waiting", table_name="jobs")
    op.drop_index("ix_jobs_lease_expires_at", table_name="jobs")
    op.drop_index("ix_jobs_dataset_id", table_name="jobs")
    for column in ("deleted_at", "claimed_at", "seconds_used", "max_duration", "priority", "init_adapter_id"):
        op.drop_column("jobs", column)
    op.add_column("jobs", sa.Column("cancel_requested", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.alter_column("jobs", "cancel_requested", server_default=None)
    op.drop_column("tenants", "served_at")
