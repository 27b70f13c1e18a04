"""Rows and files never disagree for longer than the grace period, and no file that a row names is ever deleted."""

import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session, sessionmaker

from jobstore.generations import expiry as generations
from jobstore.kit.ids import new_id
from jobstore.kit.objects import ObjectStore, job_logs_prefix, job_prefix
from jobstore.kit.settings import Settings
from jobstore.kit.tables import Adapter, Checkpoint, Dataset, Generation, Image, Job
from tests.worker.conftest import Rows
from worker.datasets.check import check_dataset
from worker.kit.garbage import collect, forget


def keys(store: ObjectStore) -> set[str]:
    return {
        file.key
        for prefix in ("datasets/", "jobs/", "adapters/", "encodings/", "images/", "conditions/", "uploads/", "elsewhere/")
        for file in store.list(prefix)
    }


def add_everything(rows: Rows, store: ObjectStore) -> tuple[str, set[str]]:
    """A job with one of each thing that has a file; the job's id and the keys."""
    dataset_id = rows.dataset()
    check_dataset(dataset_id)
    dataset, job_id = rows.get(Dataset, dataset_id), rows.job(dataset_id)
    common = {"tenant_id": rows.tenant.id, "job_id": job_id}
    adapter = Adapter(id=new_id("ad"), **common, base_model="emoji-dit", bytes=1, sha256="0", class_names=[])
    adapter.object_key = f"adapters/{adapter.id}/a.safetensors"
    checkpoint = Checkpoint(id=new_id("ck"), job_id=job_id, step=1, object_key=f"{job_prefix(job_id)}t/1.tar", bytes=1)
    sample = Image(id=new_id("img"), **common, position=1, object_key=f"{job_prefix(job_id)}t/1.png", width=1, height=1)
    picture = Image(id=new_id("img"), tenant_id=rows.tenant.id, position=0, object_key="images/1.png", width=1, height=1)
    sample.details = picture.details = {}
    picture.generation_id = rows.generation()
    condition = f"conditions/{picture.generation_id}"
    with rows.sessions.begin() as session:
        session.add_all([adapter, checkpoint, sample, picture])
        session.execute(update(Generation).values(condition_key=condition))
    made = {row.object_key for row in (adapter, checkpoint, sample, picture)} | {f"{job_logs_prefix(job_id)}1.txt", condition}
    for key in made:
        store.put_bytes(key, b"x")
    return job_id, made | {str(key) for key in (dataset.upload_key, dataset.content_key, dataset.preview_key)}


def test_only_files_that_no_row_names_are_deleted_and_only_after_the_grace_period(
    rows: Rows, store: ObjectStore, sessions: sessionmaker[Session]
) -> None:
    _, named = add_everything(rows, store)
    orphans = {
        "datasets/ds_x/upload",
        "jobs/job_x/t/1.tar",
        "jobs/job_x/logs/1.txt",
        "adapters/ad_x/a",
        "images/x.png",
        "conditions/gen_x",
        "uploads/upl_x/0",
    }
    for key in orphans | {"elsewhere/of_others"}:
        store.put_bytes(key, b"x")
    assert collect(sessions, store, 3600) == 0
    assert keys(store) == named | orphans | {"elsewhere/of_others"}
    assert collect(sessions, store, 0) == len(orphans)
    assert keys(store) == named | {"elsewhere/of_others"}


def test_files_of_deleted_rows_are_found_where_the_deletion_left_them(
    rows: Rows, store: ObjectStore, sessions: sessionmaker[Session]
) -> None:
    """As after a crash between the commit and the deletion of the files."""
    _, named = add_everything(rows, store)
    with sessions.begin() as session:
        session.execute(update(Dataset).values(status="deleted"))
        session.execute(update(Adapter).values(deleted_at=func.now()))
        session.execute(update(Job).values(deleted_at=func.now()))
        session.query(Checkpoint).delete()
        session.query(Image).delete()
        session.query(Generation).delete()
    assert collect(sessions, store, 0) == len(named)
    assert keys(store) == set()


def test_generations_go_with_their_pictures_when_they_are_old(
    rows: Rows, store: ObjectStore, sessions: sessionmaker[Session], fast_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted from their end: what waits or is being made stays."""
    monkeypatch.setattr(generations, "BATCH", 2)
    settings = fast_settings.model_copy(update={"keep_pictures_days": 3.0})
    ages = {rows.generation(): days for days in (2, 4, 5, 6, None)}
    with sessions.begin() as session:
        for generation_id, days in ages.items():
            generation = session.get_one(Generation, generation_id)
            generation.created_at = func.now() - timedelta(days=100)
            generation.condition_key = f"conditions/{generation_id}"
            image = Image(id=new_id("img"), tenant_id=rows.tenant.id, position=0, object_key=f"images/{generation_id}", width=1)
            image.generation_id, image.height, image.details = generation_id, 1, {}
            session.add(image)
            if days is not None:
                generation.status, generation.finished_at = "succeeded", func.now() - timedelta(days=days)
    for generation_id in ages:
        store.put_bytes(f"conditions/{generation_id}", b"x")
        store.put_bytes(f"images/{generation_id}", b"x")
    forget(sessions, settings)
    assert collect(sessions, store, 0) == 3 * 2
    kept = [generation_id for generation_id, days in ages.items() if days in (2, None)]
    assert keys(store) == {f"{prefix}/{generation_id}" for prefix in ("conditions", "images") for generation_id in kept}
    with sessions() as session:
        assert set(session.scalars(select(Generation.id))) == set(kept)


def test_what_lost_attempts_stored_is_collected(
    rows: Rows, store: ObjectStore, sessions: sessionmaker[Session], fast_settings: Settings, run: Callable[..., None]
) -> None:
    dataset_id = rows.dataset()
    check_dataset(dataset_id)
    job_id = rows.job(dataset_id, steps=6, checkpoint_every=2)
    run()
    with sessions.begin() as session:
        session.execute(update(Job).values(status="queued", finished_at=None))
        session.query(Checkpoint).delete()
    run()
    assert rows.get(Job, job_id).status == "succeeded"
    before = keys(store)
    assert collect(sessions, store, 0) == 3 + 1 + 1  # checkpoints, sample and adapter of the first run
    with sessions() as session:
        columns = (Checkpoint.object_key, Image.object_key, Adapter.object_key)
        named = {key for column in columns for key in session.scalars(select(column))}
    assert named < keys(store) < before


def test_what_killed_puts_left_in_a_folder_is_collected(
    rows: Rows, store: ObjectStore, sessions: sessionmaker[Session], tmp_path: Path
) -> None:
    """A process that is killed in the middle of an upload: the file never appears, and what was written of it goes."""
    begins = "import asyncio, os, sys; from jobstore.kit.objects import ObjectStore\n"
    puts = "async def chunks():\n for _ in range(3): yield bytes(6_000_000)\n os.kill(os.getpid(), 9)\n"
    run = "asyncio.run(ObjectStore(sys.argv[1]).put_stream('datasets/ds_1/upload', chunks()))"
    killed = subprocess.run([sys.executable, "-c", begins + puts + run, (tmp_path / "files").as_uri()], check=False)
    assert killed.returncode == -signal.SIGKILL
    folder = tmp_path / "files" / "datasets" / "ds_1"
    left = list(folder.iterdir())
    assert len(left) == 1
    assert left[0].stat().st_size > 0
    assert keys(store) == set()
    assert collect(sessions, store, 3600) == 0
    assert list(folder.iterdir()) == left
    assert collect(sessions, store, 0) == 1
    assert list(folder.iterdir()) == []
