"""What trainings need, computed by workers for plans."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

JSONB = postgresql.JSONB()
TIME = postgresql.TIMESTAMP(timezone=True)

revision = "0011"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "estimates",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("spec", JSONB, nullable=False),
        sa.Column("result", JSONB, nullable=True),
        sa.Column("error", JSONB, nullable=True),
        sa.Column("created_at", TIME, server_default=sa.text("now()"), nullable=False),
        sa.Column("finished_at", TIME, nullable=True),
        sa.Column("lease_token", sa.Uuid(), nullable=True),
        sa.Column("lease_expires_at", TIME, nullable=True),
        sa.Column("attempt", sa.BigInteger(), nullable=False),
        sa.Column("woken_at", TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_estimates"),
        sa.UniqueConstraint("key", name="uq_estimates_key"),
    )
    op.create_index("ix_estimates_status", "estimates", ["status"])
    op.create_index("ix_estimates_created_at", "estimates", ["created_at"])


def downgrade() -> None:
    op.drop_table("estimates")
