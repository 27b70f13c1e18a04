"""Rows that the tests of the job store start from."""

from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from jobstore.kit.ids import new_id
from jobstore.kit.tables import Dataset, Generation, Job, JobEvent, Tenant


def add_dataset(session: Session, tenant: Tenant, status: str = "ready") -> Dataset:
    row = Dataset(
        id=new_id("ds"), tenant_id=tenant.id, name="cats", status=status, upload_key="datasets/x/upload", upload_bytes=1
    )
    session.add(row)
    session.flush()
    return row


def add_job(session: Session, tenant: Tenant, status: str = "queued") -> Job:
    row = Job(
        id=new_id("job"),
        tenant_id=tenant.id,
        dataset_id=add_dataset(session, tenant).id,
        status=status,
        base_model="emoji-dit",
        spec={},
        training_spec={},
        total_steps=10,
    )
    session.add(row)
    session.flush()
    return row


def add_generation(session: Session, tenant: Tenant) -> Generation:
    row = Generation(id=new_id("gen"), tenant_id=tenant.id, base_model="emoji-dit", status="queued", parameters={})
    session.add(row)
    session.flush()
    return row


def event_types(sessions: sessionmaker[Session], job_id: str) -> list[str]:
    """The types of a job's events, in their order."""
    with sessions() as session:
        return list(session.scalars(select(JobEvent.type).where(JobEvent.job_id == job_id).order_by(JobEvent.sequence)))
