"""Pictures of generations and the conditions sent with them count as stored, and go when they are old."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("generations", sa.Column("condition_bytes", sa.BigInteger(), server_default="0", nullable=False))
    with_condition = sa.text("condition_key IS NOT NULL")
    op.create_index("ix_generations_conditions", "generations", ["tenant_id"], postgresql_where=with_condition)
    op.create_index("ix_generations_finished_at", "generations", ["finished_at"])
    op.create_index("ix_images_tenant_id", "images", ["tenant_id"])


def downgrade() -> None:
    op.drop_index("ix_images_tenant_id", "images")
    op.drop_index("ix_generations_finished_at", "generations")
    op.drop_index("ix_generations_conditions", "generations")
    op.drop_column("generations", "condition_bytes")
