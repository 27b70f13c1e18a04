"""Samples and answers of language models are texts."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0010"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for size in ("width", "height"):
        op.alter_column("images", size, existing_type=sa.BigInteger(), nullable=True)
    op.add_column("generations", sa.Column("texts", JSONB(), nullable=True))
    op.add_column("generations", sa.Column("condition_key", sa.String(), nullable=True))
    op.create_index("ix_generations_condition_key", "generations", ["condition_key"])


def downgrade() -> None:
    op.drop_index("ix_generations_condition_key", "generations")
    op.drop_column("generations", "condition_key")
    op.drop_column("generations", "texts")
    op.execute("DELETE FROM images WHERE width IS NULL")
    for size in ("width", "height"):
        op.alter_column("images", size, existing_type=sa.BigInteger(), nullable=False)
