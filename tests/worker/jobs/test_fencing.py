"""A worker that was stopped, cut off or left without its servers: it writes nothing over its successor, and loses nothing."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session, sessionmaker

from jobstore.kit.objects import ObjectStore
from jobstore.kit.settings import Settings, get_settings
from jobstore.kit.tables import Adapter, Checkpoint, Image, Job
from tests.jobstore.processes import alive, descendants
from tests.services import Servers
from tests.waiting import wait_for
from tests.worker.conftest import ROOT, Rows
from worker.kit.sweeper import Sweeper, sweep

LEASE_SECONDS = 1.0


@pytest.fixture
def short_lease(fast_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("DIFFFIT_LEASE_SECONDS", str(LEASE_SECONDS))
    get_settings.cache_clear()
    return get_settings()


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[bytes]"]]:
    """Starts a process that works on one job, with a scratch folder of its own, as on another machine."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*options: str) -> "subprocess.Popen[bytes]":
        environment = os.environ | {"DIFFFIT_WORK_DIR": str(tmp_path / "elsewhere")}
        command = [sys.executable, "-m", "tests.worker.one_job", *options]
        started.append(subprocess.Popen(command, cwd=ROOT, env=environment))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def named_files(sessions: sessionmaker[Session], store: ObjectStore) -> dict[str, bytes]:
    columns = (Checkpoint.object_key, Image.object_key, Adapter.object_key)
    with sessions() as session:
        return {key: store.get_bytes(key) for column in columns for key in session.scalars(select(column))}


def test_a_worker_that_wakes_after_its_lease_was_taken_over_changes_nothing(
    rows: Rows,
    dataset: str,
    short_lease: Settings,
    worker: Callable[..., "subprocess.Popen[bytes]"],
    run: Callable[..., None],
    store: ObjectStore,
) -> None:
    """Its trainer has run on to the end meanwhile: the adapter lies there, ready to be stored."""
    job_id = rows.job(dataset, steps=60, checkpoint_every=10)
    zombie = worker("--step-seconds", "0.05")
    wait_for(lambda: rows.events(job_id, "checkpoint"))
    family = descendants(zombie.pid)
    zombie.send_signal(signal.SIGSTOP)
    written = wait_for(lambda: next((rows.folder / "elsewhere").glob("*/events.jsonl")))
    wait_for(lambda: '"succeeded"' in written.read_text())

    def taken_over() -> bool:
        sweep(rows.sessions, short_lease)
        return rows.get(Job, job_id).status == "queued"

    wait_for(taken_over)
    run()
    job, told, files = rows.get(Job, job_id), rows.events(job_id), named_files(rows.sessions, store)
    assert (job.status, job.attempt) == ("succeeded", 2)
    zombie.send_signal(signal.SIGCONT)
    assert zombie.wait(30) == 0
    assert not alive(family)
    after = rows.get(Job, job_id)
    columns = Job.__table__.columns.keys()
    assert [getattr(after, name) for name in columns] == [getattr(job, name) for name in columns]
    assert [event.id for event in rows.events(job_id)] == [event.id for event in told]
    assert named_files(rows.sessions, store) == files
    endings = [event.type for event in told if event.type in {"succeeded", "failed", "cancelled"}]
    assert endings == ["succeeded"]


def test_work_goes_on_while_the_database_is_away_for_longer_than_the_lease(
    rows: Rows, dataset: str, short_lease: Settings, run: Callable[..., None], servers: Servers
) -> None:
    """No connection is let in and those that there are break, as while a server is started again."""
    job_id = rows.job(dataset, steps=60, checkpoint_every=10)
    with rows.sessions() as session:
        name = session.scalar(text("SELECT current_database()"))

    def away_and_back() -> None:
        wait_for(lambda: rows.events(job_id, "progress"))
        scratch = next(short_lease.work_dir.glob(f"{job_id}.*"))
        with servers.maintenance.connect() as connection:
            connection.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false"))
            connection.execute(text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"))
            wait_for(lambda: '"succeeded"' in (scratch / "events.jsonl").read_text())  # longer than the lease lasts
            connection.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true"))

    run("--step-seconds", "0.05", meanwhile=away_and_back)
    job, told = rows.get(Job, job_id), rows.events(job_id)
    assert (job.status, job.attempt, job.error, job.step) == ("succeeded", 1, None, 60)
    assert [event.sequence for event in told] == list(range(1, len(told) + 1))
    assert [event.data["step"] for event in told if event.type == "checkpoint"] == [10, 20, 30, 40, 50, 60]


def test_leases_are_left_alone_until_workers_could_renew_them(rows: Rows, short_lease: Settings) -> None:
    """After the start, and after a time in which the database did not answer: here, in which nobody asked it."""
    sweeper = Sweeper(rows.sessions, short_lease)
    for _ in range(2):
        assert not sweeper.database_is_steady()
        wait_for(sweeper.database_is_steady)
        sweeper._reached_at -= LEASE_SECONDS
