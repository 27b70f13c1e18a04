"""Limits: a tenant with as many running jobs as it may have waits, and keeps nobody else waiting; what counts as stored."""

from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from jobstore.jobs import queue
from jobstore.kit.ids import new_id
from jobstore.kit.tables import Adapter, Checkpoint, Dataset, Encoding, Export, Generation, Image, Job, Tenant
from jobstore.tenants.keys import create_tenant
from jobstore.tenants.quotas import stored_bytes
from tests.jobstore.rows import add_generation, add_job


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


def test_what_a_tenant_can_delete_counts_as_stored(sessions: sessionmaker[Session], tenant: Tenant) -> None:
    """Each file has a digit of its own in the sum."""
    with sessions.begin() as session:
        stranger = create_tenant(session, "another")
        job = add_job(session, tenant)
        dataset = session.get_one(Dataset, job.dataset_id)
        dataset.upload_bytes, dataset.content_bytes = 1, 10
        mine = {"tenant_id": tenant.id}
        adapter = Adapter(id=new_id("ad"), job_id=job.id, base_model="b", object_key="a", sha256="", class_names=[], **mine)
        export = Export(id=new_id("exp"), adapter_id=adapter.id, format="peft", status="succeeded", object_key="e", **mine)
        sample = Image(id=new_id("img"), job_id=job.id, position=1, object_key="s", bytes=10_000, details={}, **mine)
        picture = Image(id=new_id("img"), position=0, object_key="p", bytes=100_000, details={}, **mine)
        generation = add_generation(session, tenant)
        generation.condition_key, generation.condition_bytes = "c", 10_000_000
        picture.generation_id = generation.id
        encoding = Encoding(key="k", dataset_sha256="0", object_key="n", bytes=100_000_000, sha256="", **mine)
        adapter.bytes, export.bytes = 100, 1000
        session.add_all([adapter, sample, picture, encoding])
        session.flush()
        session.add_all([export, Checkpoint(id=new_id("ck"), job_id=job.id, step=1, object_key="c", bytes=1_000_000)])
    with sessions() as session:
        assert stored_bytes(session, tenant.id) == 111_111_111
        assert stored_bytes(session, stranger.id) == 0
    with sessions.begin() as session:
        session.get_one(Dataset, dataset.id).status = "deleted"
        session.delete(session.get_one(Image, sample.id))
    with sessions() as session:
        assert stored_bytes(session, tenant.id) == 111_101_100
    with sessions.begin() as session:
        session.delete(session.get_one(Generation, generation.id))
    with sessions() as session:
        assert stored_bytes(session, tenant.id) == 101_001_100
