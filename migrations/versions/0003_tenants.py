"""Keys with scopes, expiry and revocation; limits of a tenant."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

JSONB = postgresql.JSONB()
TIME = postgresql.TIMESTAMP(timezone=True)

revision = "0003"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Keys from before there were scopes opened everything.
    op.add_column("tenants", sa.Column("limits", JSONB, nullable=False, server_default="{}"))
    op.alter_column("tenants", "limits", server_default=None)
    for name, before in (("name", "installed"), ("scope", "admin"), ("hint", "")):
        op.add_column("api_keys", sa.Column(name, sa.String(), nullable=False, server_default=before))
        op.alter_column("api_keys", name, server_default=None)
    for name in ("expires_at", "revoked_at", "last_used_at"):
        op.add_column("api_keys", sa.Column(name, TIME, nullable=True))
    op.create_index("ix_api_keys_tenant_id_id", "api_keys", ["tenant_id", "id"])


def downgrade() -> None:
    op.drop_index("ix_api_keys_tenant_id_id", table_name="api_keys")
    for name in ("last_used_at", "revoked_at", "expires_at", "hint", "scope", "name"):
        op.drop_column("api_keys", name)
    op.drop_column("tenants", "limits")
