"""Whose plan an estimate was computed for first: a tenant has few that wait, whatever others ask for."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("estimates", sa.Column("tenant_id", sa.String(), nullable=True))
    op.create_foreign_key("fk_estimates_tenant_id_tenants", "estimates", "tenants", ["tenant_id"], ["id"])


def downgrade() -> None:
    op.drop_column("estimates", "tenant_id")
