"""Encodings in the object store: shared by a tenant's jobs, replaced where damaged, deleted where nobody needs them."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session, sessionmaker

from difffit_core.data.encodings import FILE
from jobstore.datasets import encodings
from jobstore.kit.objects import ObjectStore
from jobstore.kit.settings import Settings
from jobstore.kit.tables import Dataset, Encoding, Job
from tests.worker.conftest import Rows
from worker.datasets.check import check_dataset
from worker.datasets.encodings import StagedEncodings, stage_encodings
from worker.jobs.files import stage
from worker.jobs.recorder import Recorder
from worker.jobs.supervisor import run_next
from worker.jobs.trainer import TRAINER, Standby
from worker.kit.garbage import collect
from worker.kit.lease import Lease, LeaseLost


def encodings_of(sessions: sessionmaker[Session]) -> list[Encoding]:
    with sessions() as session:
        return list(session.scalars(select(Encoding)).all())


def objects_in(store: ObjectStore) -> set[str]:
    return {file.key for file in store.list("encodings/")}


def types_of(rows: Rows, job_id: str) -> set[str]:
    return {event.type for event in rows.events(job_id)}


def add_encoding(rows: Rows, dataset_id: str, key: str = "k", days: int = 0) -> str:
    """A row as of so many days ago, and its object."""
    object_key = f"encodings/{key}/t.safetensors"
    row = Encoding(tenant_id=rows.tenant.id, key=key, object_key=object_key, bytes=1, sha256="0")
    row.dataset_sha256 = str(rows.get(Dataset, dataset_id).sha256)
    rows.store.put_bytes(object_key, b"x")
    with rows.sessions.begin() as session:
        session.add(row)
        session.flush()
        ago = func.now() - timedelta(days=days)
        session.execute(update(Encoding).where(Encoding.key == key).values(last_used_at=ago))
    return object_key


def test_the_second_job_on_a_dataset_encodes_nothing(
    rows: Rows, dataset: str, sessions: sessionmaker[Session], store: ObjectStore
) -> None:
    """The real trainer; the second job's adapter is that of the same job alone."""
    standby = Standby(TRAINER)
    try:
        first = rows.job(dataset, steps=1)
        run_next(standby)
        second = rows.job(dataset, steps=2, learning_rate=1e-2)
        run_next(standby)
    finally:
        standby.close()
    assert {"encoding", "encoded"} <= types_of(rows, first)
    assert not {"encoding", "encoded", "warning"} & types_of(rows, second)
    assert [event.data for event in rows.events(second, "encodings_reused")] == [{"examples": 8}]
    assert [rows.get(Job, job).status for job in (first, second)] == ["succeeded", "succeeded"]
    (kept,) = encodings_of(sessions)
    assert objects_in(store) == {kept.object_key}
    assert kept.bytes == len(store.get_bytes(kept.object_key))


@pytest.mark.parametrize("damage", ["gone", "damaged"])
def test_encodings_that_are_damaged_are_made_anew(
    rows: Rows, dataset: str, run: Callable[..., None], sessions: sessionmaker[Session], store: ObjectStore, damage: str
) -> None:
    rows.job(dataset)
    run("--encodes")
    (before,) = encodings_of(sessions)
    if damage == "gone":
        store.delete(before.object_key)
    else:
        store.put_bytes(before.object_key, b"encodec")
    second = rows.job(dataset)
    run("--encodes")
    assert damage in rows.events(second, "warning")[0].data["message"]
    assert "encoded" in types_of(rows, second)
    assert rows.get(Job, second).status == "succeeded"
    (after,) = encodings_of(sessions)
    assert after.object_key != before.object_key
    assert objects_in(store) == {after.object_key}
    third = rows.job(dataset)
    run("--encodes")
    assert "encodings_reused" in types_of(rows, third)


def test_of_two_jobs_that_encode_at_once_one_is_kept(
    rows: Rows, dataset: str, run: Callable[..., None], sessions: sessionmaker[Session], store: ObjectStore
) -> None:
    rows.job(dataset)
    run("--encodes")
    (first,) = encodings_of(sessions)
    late = Encoding(tenant_id=first.tenant_id, key=first.key, dataset_sha256="0", object_key="encodings/late", bytes=1)
    late.sha256 = "0"
    with sessions.begin() as session:
        assert encodings.keep(session, late, instead_of=None) == ["encodings/late"]
    with sessions.begin() as session:  # as after a commit that was not answered
        assert encodings.keep(session, first, instead_of=None) == []
    assert [row.object_key for row in encodings_of(sessions)] == [first.object_key]


def test_a_worker_that_lost_its_job_shares_nothing(
    rows: Rows, dataset: str, sessions: sessionmaker[Session], store: ObjectStore, fast_settings: Settings, tmp_path: Path
) -> None:
    """What it stored is named by no row, and so it is collected."""
    job_id = rows.job(dataset)
    (tmp_path / FILE).write_bytes(b"encoded")
    lease = Lease(sessions, Job, job_id, uuid4(), fast_settings)
    recorder = Recorder(sessions, store, lease, rows.get(Job, job_id), tmp_path, StagedEncodings("k"))
    with pytest.raises(LeaseLost):
        recorder.record({"type": "encoded", "time": 0.0, "path": FILE, "bytes": 7, "sha256": "0"})
    assert encodings_of(sessions) == []
    assert collect(sessions, store, 0) == 1
    assert objects_in(store) == set()


def test_another_tenants_encodings_are_not_seen(
    rows: Rows, dataset: str, run: Callable[..., None], store: ObjectStore, fast_settings: Settings, tmp_path: Path
) -> None:
    rows.job(dataset)
    run("--encodes")
    job = rows.get(Job, rows.job(dataset))
    stage(rows.sessions, job, tmp_path, store, fast_settings)
    own = stage_encodings(rows.sessions, job, tmp_path, store)
    assert (own.object_key, own.warning) == (encodings_of(rows.sessions)[0].object_key, None)
    (tmp_path / FILE).unlink()
    job.tenant_id = "ten_other"
    assert stage_encodings(rows.sessions, job, tmp_path, store) == StagedEncodings(own.key)
    assert not (tmp_path / FILE).exists()


def test_encodings_that_nobody_needs_are_deleted_with_their_objects(rows: Rows, dataset: str, store: ObjectStore) -> None:
    """Those that no job has used for long, and those of a dataset that is deleted; a copy of the dataset keeps them."""
    copy = rows.dataset()
    check_dataset(copy)
    old, fresh = add_encoding(rows, dataset, "old", days=31), add_encoding(rows, dataset, "fresh", days=29)

    def left() -> set[str]:
        with rows.sessions.begin() as session:
            encodings.forget_unused(session, days=30)
        collect(rows.sessions, store, 0)
        return objects_in(store)

    assert objects_in(store) == {old, fresh}
    assert left() == {fresh}
    for dataset_id, expected in ((dataset, {fresh}), (copy, set())):
        with rows.sessions.begin() as session:
            session.execute(update(Dataset).where(Dataset.id == dataset_id).values(status="deleted"))
        assert left() == expected


def test_the_space_of_a_deleted_dataset_is_free_at_once(rows: Rows, dataset: str) -> None:
    copy = rows.dataset()
    check_dataset(copy)
    object_key = add_encoding(rows, dataset)
    for dataset_id, expected in ((dataset, []), (copy, [object_key])):
        with rows.sessions.begin() as session:
            session.execute(update(Dataset).where(Dataset.id == dataset_id).values(status="deleted"))
            assert encodings.forget_without_dataset(session, "ten_other") == []
            assert encodings.forget_without_dataset(session, rows.tenant.id) == expected


def test_a_job_that_begins_keeps_its_encodings(rows: Rows, dataset: str) -> None:
    object_key = add_encoding(rows, dataset, days=31)
    with rows.sessions.begin() as session:
        found = encodings.use(session, rows.tenant.id, "k")
        assert found is not None
        assert found.object_key == object_key
        assert encodings.forget_unused(session, days=30) == 0
