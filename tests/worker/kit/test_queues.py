"""The queues end to end: messages through Valkey, Celery workers in their own processes, the real trainer and base."""

import io
import json
import signal
from pathlib import Path

import pytest
from PIL import Image as PillowImage
from sqlalchemy import select, update

from jobstore.jobs.lifecycle import Action, request
from jobstore.kit.dispatch import wake
from jobstore.kit.objects import ObjectStore
from jobstore.kit.tables import Adapter, Dataset, Generation, Image, Job
from tests.jobstore.processes import alive, descendants
from tests.waiting import wait_for
from tests.worker.conftest import Rows, Workers
from tests.worker.pictures import huge_picture, zip_of
from worker.datasets.check import check_dataset

TRAINING_SECONDS = 240  # torch starts slowly on a busy machine


def test_the_default_queue_checks_datasets_and_sweeps(rows: Rows, workers: Workers, store: ObjectStore) -> None:
    """The second and third dataset's messages are never sent: the sweeper finds them."""
    worker = workers.start("default")
    good, unwoken = rows.dataset(), rows.dataset()
    bad = rows.dataset(zip_of(rows.folder / "bad.zip", {"a/huge.png": huge_picture(), "a/notes.txt": b"a text"}))
    wake("check_dataset", good)
    statuses = [wait_for(lambda row=row: ended(rows, row)) for row in (good, unwoken, bad)]  # type: ignore[misc]
    assert statuses == ["ready", "ready", "failed"]
    dataset, failed = rows.get(Dataset, good), rows.get(Dataset, bad)
    assert dataset.classes == {"blue": 4, "red": 4}
    assert dataset.report is not None
    assert dataset.report["kept"] == dataset.report["files"] == 8
    assert dataset.sha256 == rows.get(Dataset, unwoken).sha256
    assert PillowImage.open(io.BytesIO(store.get_bytes(str(dataset.preview_key)))).format == "PNG"
    assert dataset.content_bytes == sum(len(store.get_bytes(str(key))) for key in (dataset.content_key, dataset.preview_key))
    assert failed.error is not None
    assert (failed.error["code"], failed.error["param"]) == ("no_usable_examples", "file")
    assert failed.report is not None
    assert {r["file"]: r["code"] for r in failed.report["refused"]} == {
        "a/huge.png": "too_many_pixels",
        "a/notes.txt": "not_an_image",
    }
    assert store.exists(failed.upload_key)
    assert "torch" not in loaded_libraries(worker.pid)


def test_a_worker_that_generates_has_its_libraries_before_it_is_asked(workers: Workers) -> None:
    worker = workers.start("generate")
    wait_for(lambda: "torch" in loaded_libraries(worker.pid))


@pytest.mark.parametrize(
    ("upload", "code"),
    [(b"", "empty_archive"), (b"no archive", "corrupt_archive"), (b"\x1f\x8b broken", "corrupt_archive")],
)
def test_an_unusable_upload_fails_and_is_kept(rows: Rows, store: ObjectStore, tmp_path: Path, upload: bytes, code: str) -> None:
    (tmp_path / "upload").write_bytes(upload)
    dataset_id = rows.dataset(tmp_path / "upload")
    check_dataset(dataset_id)
    dataset = rows.get(Dataset, dataset_id)
    assert dataset.error is not None
    assert (dataset.status, dataset.error["code"], dataset.lease_token) == ("failed", code, None)
    assert store.get_bytes(dataset.upload_key) == upload


def test_an_upload_that_is_not_of_its_format_fails(rows: Rows) -> None:
    dataset_id = rows.dataset(format="food-101")
    check_dataset(dataset_id)
    dataset = rows.get(Dataset, dataset_id)
    assert dataset.error is not None
    assert (dataset.status, dataset.error["code"], dataset.error["param"]) == ("failed", "missing_file", "format")


def test_a_job_trains_survives_its_worker_and_makes_images(rows: Rows, workers: Workers, store: ObjectStore) -> None:
    dataset_id = rows.dataset()
    check_dataset(dataset_id)
    job_id = rows.job(dataset_id, steps=100_000, checkpoint_every=1, sample_every=100_000)
    first = workers.start("train")
    wake("train", job_id)
    wait_for(lambda: rows.events(job_id, "checkpoint"), TRAINING_SECONDS)
    first.send_signal(signal.SIGTERM)
    assert first.wait(60) == 0
    job = rows.get(Job, job_id)
    assert (job.status, job.attempt) == ("queued", 0)
    reached = rows.events(job_id, "checkpoint")[-1].data["step"]
    with rows.sessions.begin() as session:
        shorter = job.training_spec["hyperparameters"] | {"steps": reached + 2}
        session.execute(update(Job).values(training_spec=job.training_spec | {"hyperparameters": shorter}))

    workers.start("train")
    workers.start("generate")
    wait_for(lambda: rows.get(Job, job_id).finished_at, TRAINING_SECONDS)
    job = rows.get(Job, job_id)
    assert (job.status, job.error) == ("succeeded", None)
    assert [event.data["resumed_from"] for event in rows.events(job_id, "started")] == [None, reached]
    assert set(job.losses) == {"train"}
    with rows.sessions() as session:
        adapter = session.scalars(select(Adapter)).one()
    assert len(store.get_bytes(adapter.object_key)) == adapter.bytes
    assert adapter.class_names == ["blue", "red"]

    twice = [rows.generation(adapter.id), rows.generation(adapter.id)]
    base, wrong = rows.generation(), rows.generation(labels=[10_000])
    wake("generate", twice[0])  # the others are found by the worker once it is awake
    for generation_id in (*twice, base, wrong):
        wait_for(lambda row=generation_id: rows.get(Generation, row).finished_at, TRAINING_SECONDS)  # type: ignore[misc]
    assert [rows.get(Generation, g).status for g in (*twice, base, wrong)] == ["succeeded", "succeeded", "succeeded", "failed"]
    first_images, second_images = (images(rows, store, generation_id) for generation_id in twice)
    assert first_images == second_images
    assert len(set(first_images)) == 2
    with PillowImage.open(io.BytesIO(first_images[0])) as picture:
        assert json.loads(picture.info["difffit"]) == {
            **{"adapter": adapter.id, "base_model": "emoji-dit", "label": "red", "seed": 7},
            **{"steps": 2, "guidance_scale": 3.0, "scheduler": "ddim", "adapter_strength": 1.0, "width": 64, "height": 64},
        }
    second = rows.job(dataset_id, steps=100_000)
    wake("train", second)
    wait_for(lambda: rows.events(second, "progress"), TRAINING_SECONDS)
    with rows.sessions.begin() as session:
        running = session.get(Job, second)
        assert running is not None
        request(session, running, Action.CANCEL)
    wait_for(lambda: rows.get(Job, second).status == "cancelled")
    assert [event.type for event in rows.events(second)][-2:] == ["checkpoint", "cancelled"]


def test_a_killed_worker_leaves_no_process_and_its_job_is_taken_over(rows: Rows, workers: Workers) -> None:
    """The trainer is the child of a pool process, which is the child of the worker that is killed."""
    dataset_id = rows.dataset()
    check_dataset(dataset_id)
    worker = workers.start("train")
    family = wait_for(lambda: len(found := descendants(worker.pid)) >= 3 and found)
    assert family
    job_id = rows.job(dataset_id, steps=100_000)
    wake("train", job_id)
    wait_for(lambda: rows.get(Job, job_id).lease_token)
    worker.kill()
    wait_for(lambda: not alive(family))
    workers.start("default")
    wait_for(lambda: rows.get(Job, job_id).status == "queued")
    assert [event.type for event in rows.events(job_id)][-1] == "requeued"


def ended(rows: Rows, dataset_id: str) -> str | None:
    dataset = rows.get(Dataset, dataset_id)
    return dataset.status if dataset.finished_at else None


def images(rows: Rows, store: ObjectStore, generation_id: str) -> list[bytes]:
    with rows.sessions() as session:
        made = session.scalars(select(Image).where(Image.generation_id == generation_id).order_by(Image.position)).all()
    pictures = [store.get_bytes(image.object_key) for image in made]
    assert [image.bytes for image in made] == [len(picture) for picture in pictures]
    return pictures


def loaded_libraries(pid: int) -> str:
    return "".join(Path(f"/proc/{process}/maps").read_text() for process, _ in descendants(pid))
