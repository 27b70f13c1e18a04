"""The limit of running jobs: a tenant that has reached it waits, and keeps nobody else waiting."""

from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from jobstore import queue
from jobstore.keys import create_tenant
from jobstore.tables import Job, Tenant
from tests.jobstore.rows import add_job


def test_a_tenant_at_its_limit_waits_and_others_do_not(sessions: sessionmaker[Session], tenant: Tenant) -> None:
    with sessions.begin() as session:
        other = create_tenant(session, "another")
        mine = [add_job(session, tenant).id for _ in range(3)]
        theirs = [add_job(session, other).id for _ in range(3)]
        session.get_one(Tenant, other.id).limits = {"running_jobs": 2}
    with sessions.begin() as session:
        taken = [claimed[0] for _ in range(6) if (claimed := queue.claim_next(session, 30, most_running=1))]
    assert sorted(taken) == sorted([mine[0], *theirs[:2]])
    with sessions.begin() as session:
        session.scalars(select(Job).where(Job.id == mine[0])).one().status = "succeeded"
        claimed = queue.claim_next(session, 30, most_running=1)
        assert claimed is not None
        assert claimed[0] == mine[1]
