"""What the texts of a dataset are written for; those that were checked before have their frame in their prompts."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("datasets", sa.Column("frame", sa.String(), nullable=True))
    op.execute("""UPDATE datasets SET frame = 'none', holds = '["messages"]' WHERE holds @> '["answer"]'""")


def downgrade() -> None:
    op.execute("""UPDATE datasets SET holds = '["answer", "prompt"]' WHERE holds @> '["messages"]'""")
    op.drop_column("datasets", "frame")
