"""Pausing with the real trainer: the adapter is bit for bit that of a job that was never paused."""

from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from jobstore.jobs.lifecycle import Action, request
from jobstore.kit.dispatch import wake
from jobstore.kit.objects import ObjectStore
from jobstore.kit.tables import Adapter, Job
from tests.waiting import wait_for
from tests.worker.conftest import Rows, Workers
from worker.datasets.check import check_dataset

TRAINING_SECONDS = 240  # torch starts slowly on a busy machine


def test_a_paused_job_trains_the_adapter_of_an_unpaused_one(
    rows: Rows, workers: Workers, sessions: sessionmaker[Session], store: ObjectStore
) -> None:
    """While it is paused the worker trains the other, which has the same settings."""
    dataset_id = rows.dataset()
    check_dataset(dataset_id)
    settings = {"steps": 60, "checkpoint_every": 1000, "sample_every": 1000}
    first, second = rows.job(dataset_id, **settings), rows.job(dataset_id, **settings)
    workers.start("train")
    wake("train", first)
    begun = wait_for(lambda: [job_id for job_id in (first, second) if rows.events(job_id, "progress")], TRAINING_SECONDS)
    running, other = (first, second) if begun == [first] else (second, first)
    with sessions.begin() as session:
        request(session, session.get_one(Job, running), Action.PAUSE)
    wait_for(lambda: rows.get(Job, other).status == "succeeded", TRAINING_SECONDS)
    assert rows.get(Job, running).status == "paused"
    stopped_at = rows.events(running, "checkpoint")[-1].data["step"]
    assert 0 < stopped_at < 60
    with sessions.begin() as session:
        request(session, session.get_one(Job, running), Action.RESUME)
    wake("train", running)
    wait_for(lambda: rows.get(Job, running).status == "succeeded", TRAINING_SECONDS)
    assert [event.data["resumed_from"] for event in rows.events(running, "started")] == [None, stopped_at]
    with sessions() as session:
        keys = session.scalars(select(Adapter.object_key)).all()
    adapters = [store.get_bytes(key) for key in keys]
    assert len(adapters) == 2
    assert adapters[0] == adapters[1]
