"""The bytes of checked datasets and of pictures."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

COLUMNS = {"datasets": "content_bytes", "images": "bytes"}


def upgrade() -> None:
    for table, column in COLUMNS.items():
        # Rows that are there keep the 0: what they name is not looked up in the store.
        op.add_column(table, sa.Column(column, sa.BigInteger(), server_default="0", nullable=False))
        op.alter_column(table, column, server_default=None)


def downgrade() -> None:
    for table, column in COLUMNS.items():
        op.drop_column(table, column)
