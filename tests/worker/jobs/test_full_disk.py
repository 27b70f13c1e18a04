"""A disk that is full while a dataset is checked or a job's files are fetched: no picture is blamed, no upload is lost."""

import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from jobstore.kit.objects import ObjectStore
from jobstore.kit.settings import Settings
from jobstore.kit.tables import Dataset, Job
from tests.worker.conftest import Rows, fill
from tests.worker.pictures import picture, zip_of
from worker.datasets.check import check_dataset
from worker.kit.image_pool import ImagePool, Request
from worker.kit.sweeper import sweep
from worker.kit.tasks import check


def test_a_dataset_waits_for_room(rows: Rows, small_disk: Path) -> None:
    dataset_id = rows.dataset()
    fill(small_disk / "filler")
    check(dataset_id)
    dataset = rows.get(Dataset, dataset_id)
    assert (dataset.status, dataset.attempt) == ("checking", 0)
    (small_disk / "filler").unlink()
    check(dataset_id)
    assert rows.get(Dataset, dataset_id).status == "ready"


@pytest.mark.parametrize("count", [4, 8], ids=["unpacked", "as it was sent"])
def test_a_dataset_that_fills_the_disk_fails_after_its_attempts(
    rows: Rows, small_disk: Path, tmp_path: Path, fast_settings: Settings, count: int
) -> None:
    upload = zip_of(tmp_path / "large.zip", {f"cats/{i}.png": picture("red") + os.urandom(300_000) for i in range(count)})
    dataset_id = rows.dataset(upload)
    for _ in range(fast_settings.max_attempts):
        assert rows.get(Dataset, dataset_id).status == "checking"
        check_dataset(dataset_id)
        sweep(rows.sessions, fast_settings)
    dataset = rows.get(Dataset, dataset_id)
    assert dataset.error is not None
    assert (dataset.status, dataset.error["code"], dataset.attempt) == ("failed", "disk_full", fast_settings.max_attempts)
    assert list(small_disk.iterdir()) == []


def test_a_job_whose_files_fill_the_disk_fails_after_its_attempts(
    rows: Rows, run: Callable[..., None], store: ObjectStore, small_disk: Path, tmp_path: Path, fast_settings: Settings
) -> None:
    dataset_id = rows.dataset()
    check_dataset(dataset_id)
    job_id, key = rows.job(dataset_id), rows.get(Dataset, dataset_id).content_key
    assert key is not None
    (tmp_path / "large.png").write_bytes(bytes(3 * 1024**2))
    with tarfile.open(tmp_path / "content.tar", "w") as content:
        content.add(tmp_path / "large.png", "large.png")
    store.put_file(key, tmp_path / "content.tar")
    for _ in range(fast_settings.max_attempts):
        run()
        sweep(rows.sessions, fast_settings)
    job = rows.get(Job, job_id)
    assert job.error is not None
    assert (job.status, job.error["code"]) == ("failed", "staging_failed")
    assert "No space left" in job.error["message"]


def test_what_cannot_be_written_is_no_fault_of_the_image(small_disk: Path, tmp_path: Path) -> None:
    (tmp_path / "map.png").write_bytes(picture("red"))
    Image.effect_noise((200, 200), 200).save(tmp_path / "map.png")
    fill(small_disk / "filler")
    with ImagePool(tmp_path, max_pixels=1_000_000) as pool, pytest.raises(OSError, match="No space left"):
        list(pool.check([Request(tmp_path / "map.png", small_disk / "plain.png")]))
