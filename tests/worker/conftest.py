"""Fixtures of the worker's tests: rows that wait for a worker, and real Celery workers."""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from difffit_core.spec.catalog import load_catalog
from difffit_core.spec.job import DatasetSummary, JobSpec
from difffit_core.spec.resolve import resolve
from jobstore.kit.ids import new_id
from jobstore.kit.objects import ObjectStore
from jobstore.kit.settings import Settings, get_settings
from jobstore.kit.tables import Dataset, Generation, Job, JobEvent, Tenant
from tests.waiting import wait_for
from tests.worker.checking import Checker
from tests.worker.pictures import two_classes, zip_of
from worker.datasets.check import check_dataset
from worker.jobs.supervisor import run_next
from worker.jobs.trainer import Standby
from worker.kit import runtime
from worker.kit.image_pool import ImagePool

ROOT = Path(__file__).parents[2]
SMALL_TRAINER = [sys.executable, str(Path(__file__).with_name("small_trainer.py"))]
Row = TypeVar("Row")


@pytest.fixture(autouse=True)
def fast_settings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """Short intervals for this process and those it starts; this process's own connections end with the test."""
    for name, value in (("HEARTBEAT", "0.1"), ("SWEEP", "0.2"), ("LEASE", "5"), ("STOP_GRACE", "20")):
        monkeypatch.setenv(f"DIFFFIT_{name}_SECONDS", value)
    get_settings.cache_clear()
    yield get_settings()
    runtime.engine().dispose()
    for cached in (runtime.engine, runtime.sessions, runtime.objects):
        cached.cache_clear()
    runtime.forget_stop()


class Rows:
    """Makes the rows that the API would make, and reads what became of them."""

    def __init__(self, sessions: sessionmaker[Session], store: ObjectStore, tenant: Tenant, folder: Path) -> None:
        self.sessions, self.store, self.tenant, self.folder = sessions, store, tenant, folder

    def dataset(self, upload: Path | None = None, format: str | None = None) -> str:
        row = Dataset(id=new_id("ds"), tenant_id=self.tenant.id, name="a set", status="checking", format=format)
        path = upload or zip_of(self.folder / row.id, two_classes())
        row.upload_key, row.upload_bytes = f"datasets/{row.id}/upload", path.stat().st_size
        self.store.put_file(row.upload_key, path)
        with self.sessions.begin() as session:
            session.add(row)
        return row.id

    def job(self, dataset_id: str, **hyperparameters: Any) -> str:
        dataset = self.get(Dataset, dataset_id)
        assert dataset.sha256 is not None
        assert dataset.classes is not None
        small: dict[str, Any] = {"steps": 3, "batch_size": 4, "sample_steps": 2, "validation_fraction": 0}
        spec = JobSpec.model_validate(
            {"base_model": "emoji-dit", "dataset": dataset_id, "hyperparameters": small | hyperparameters}
        )
        summary = DatasetSummary(sha256=dataset.sha256, classes=dataset.classes, holds=dataset.holds or [], frame=dataset.frame)
        plan = resolve(spec, load_catalog()[spec.base_model], summary)
        row = Job(id=new_id("job"), tenant_id=self.tenant.id, dataset_id=dataset_id, status="queued", base_model="emoji-dit")
        row.spec, row.training_spec = spec.model_dump(mode="json"), plan.model_dump(mode="json")
        row.total_steps = plan.hyperparameters.steps
        with self.sessions.begin() as session:
            session.add(row)
        return row.id

    def generation(self, adapter_id: str | None = None, **parameters: Any) -> str:
        row = Generation(id=new_id("gen"), tenant_id=self.tenant.id, adapter_id=adapter_id, base_model="emoji-dit")
        row.status = "queued"
        row.parameters = {"labels": [1, 0], "steps": 2, "guidance_scale": 3.0, "seed": 7, "scheduler": "ddim"} | parameters
        with self.sessions.begin() as session:
            session.add(row)
        return row.id

    def get(self, model: type[Row], row_id: str) -> Row:
        with self.sessions() as session:
            row = session.get(model, row_id)
        assert row is not None
        return row

    def events(self, job_id: str, kind: str | None = None) -> list[JobEvent]:
        with self.sessions() as session:
            events = session.scalars(select(JobEvent).where(JobEvent.job_id == job_id).order_by(JobEvent.sequence)).all()
        return [event for event in events if kind in (None, event.type)]


@pytest.fixture
def rows(sessions: sessionmaker[Session], store: ObjectStore, tenant: Tenant, tmp_path: Path) -> Rows:
    return Rows(sessions, store, tenant, tmp_path)


@pytest.fixture
def dataset(rows: Rows) -> str:
    """A checked dataset of two classes."""
    dataset_id = rows.dataset()
    check_dataset(dataset_id)
    return dataset_id


@pytest.fixture
def run(fast_settings: Settings) -> Iterator[Callable[..., None]]:
    """Runs one attempt at the job whose turn it is; `meanwhile` is called in another thread."""
    with ExitStack() as stack:

        def run(*options: str, meanwhile: Callable[[], None] = lambda: None) -> None:
            standby = Standby(SMALL_TRAINER + list(options))
            stack.callback(standby.close)
            thread = threading.Thread(target=meanwhile)
            thread.start()
            run_next(standby)
            thread.join()

        yield run
        assert list(fast_settings.work_dir.iterdir()) == []


@pytest.fixture
def small_disk(fast_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The workers' scratch folder on a file system of two megabytes, one of which must be free."""
    folder = fast_settings.work_dir
    folder.mkdir(exist_ok=True)
    monkeypatch.setattr(fast_settings, "min_free_bytes", 1024**2)
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root may mount a file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # logs of trainers may be open in it still


def fill(file: Path) -> None:
    """Take all the space there is."""
    with contextlib.suppress(OSError):
        file.write_bytes(bytes(8 * 1024**2))


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImagePool]:
    with ImagePool(tmp_path_factory.getbasetemp(), max_pixels=50_000_000) as pool:
        yield pool


@pytest.fixture
def check(tmp_path: Path, settings: Settings, pool: ImagePool) -> Checker:
    return Checker(tmp_path, settings, pool)


class Workers:
    """Starts Celery workers as an operator would."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self.stack = folder, stack

    def start(self, queue: str) -> "subprocess.Popen[bytes]":
        """A worker of the queue, once it is ready."""
        number = len(list(self.folder.glob("worker-*.log")))
        heartbeat, log = self.folder / f"worker-{number}.alive", self.folder / f"worker-{number}.log"
        environment = os.environ | {"DIFFFIT_HEARTBEAT_FILE": str(heartbeat)}
        command = [
            sys.executable,
            "-m",
            "celery",
            "-A",
            "worker.app",
            "worker",
            "-Q",
            queue,
            "-l",
            "INFO",
            "-n",
            f"{queue}{number}",
        ]
        with log.open("wb") as output:
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
        self.stack.callback(stop, process)
        wait_for(lambda: heartbeat.exists() or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        return process


def stop(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(30)
    finally:
        process.kill()


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    with ExitStack() as stack:
        yield Workers(tmp_path, stack)
