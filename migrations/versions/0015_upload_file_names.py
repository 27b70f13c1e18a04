"""What users call the files that they upload: rows of texts are named by it in the report."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("datasets", sa.Column("upload_name", sa.String(), nullable=True))
    op.add_column("uploads", sa.Column("file_name", sa.String(), nullable=True))


def downgrade() -> None:
    op.drop_column("uploads", "file_name")
    op.drop_column("datasets", "upload_name")
