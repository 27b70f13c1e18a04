"""What every example of a dataset holds, and the task of a job as a config of its own."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("datasets", sa.Column("holds", JSONB(), nullable=True))
    op.execute("""UPDATE datasets SET holds = '["file", "label"]' WHERE classes IS NOT NULL""")
    op.execute(
        """
        UPDATE jobs SET training_spec = training_spec
            || jsonb_build_object('task', jsonb_build_object('type', training_spec->>'task'), 'family', 'dit')
            || jsonb_build_object('dataset', training_spec->'dataset' || '{"holds": ["file", "label"]}')
        """
    )


def downgrade() -> None:
    op.execute(
        """
        UPDATE jobs SET training_spec = (training_spec - 'family')
            || jsonb_build_object('task', training_spec->'task'->>'type')
            || jsonb_build_object('dataset', (training_spec->'dataset') - 'holds')
        """
    )
    op.drop_column("datasets", "holds")
