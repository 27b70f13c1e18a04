"""One attempt at a job, in every way it can go. The trainer is a small real program that speaks the trainer's protocol."""

import base64
import io
import json
import os
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import uuid4

import pytest
import redis
from sqlalchemy import select, text, update
from sqlalchemy.orm import Session, sessionmaker

from jobstore.jobs.lifecycle import Action, UserAction, request
from jobstore.kit import dispatch
from jobstore.kit.objects import ObjectStore, job_logs_prefix
from jobstore.kit.settings import Settings
from jobstore.kit.tables import Adapter, Checkpoint, Dataset, Image, Job
from tests.jobstore.processes import alive, descendants
from tests.waiting import wait_for
from tests.worker.conftest import SMALL_TRAINER, Rows, fill
from worker.jobs.supervisor import run_next
from worker.jobs.trainer import Standby
from worker.kit import runtime, tasks
from worker.kit.sweeper import sweep

ENDLESS = 1_000_000  # steps


def test_a_job_becomes_rows_events_and_objects(
    rows: Rows, dataset: str, run: Callable[..., None], store: ObjectStore, sessions: sessionmaker[Session]
) -> None:
    job_id = rows.job(dataset, steps=30, checkpoint_every=10)
    run()
    job = rows.get(Job, job_id)
    assert (job.status, job.error, job.attempt, job.step) == ("succeeded", None, 1, 30)
    assert (job.trained_parameters, job.total_parameters) == (5, 50)
    assert job.losses == {"train": 1 / 30, "validation_base": 2.0, "validation": 1.0}
    assert (job.lease_token, job.seconds_remaining) == (None, None)
    assert [event.type for event in rows.events(job_id) if event.type != "progress"] == [
        *("started", "validation", "checkpoint", "checkpoint", "checkpoint", "sample", "validation", "adapter", "succeeded")
    ]
    steps = [event.data["step"] for event in rows.events(job_id, "progress")]
    assert steps == sorted(steps)
    assert steps[-1] == 30
    assert all("path" not in event.data for event in rows.events(job_id))
    with sessions() as session:
        adapter = session.scalars(select(Adapter)).one()
        sample = session.scalars(select(Image)).one()
        checkpoints = session.scalars(select(Checkpoint).order_by(Checkpoint.step)).all()
    assert store.get_bytes(adapter.object_key) == b"an adapter"
    assert adapter.class_names == ["blue", "red"]
    assert (sample.job_id, sample.position, sample.width, sample.details) == (job_id, 30, 8, {"labels": ["blue", "red"]})
    assert len(store.get_bytes(sample.object_key)) == sample.bytes > 0
    assert [checkpoint.step for checkpoint in checkpoints] == [10, 20, 30]
    with tarfile.open(fileobj=io.BytesIO(store.get_bytes(checkpoints[0].object_key))) as tar:
        assert tar.getnames() == ["state.json", "state.safetensors"]


def test_a_job_that_another_worker_has_is_left_alone(rows: Rows, dataset: str, run: Callable[..., None]) -> None:
    job_id = rows.job(dataset)
    with rows.sessions.begin() as session:
        session.execute(update(Job).values(status="running", lease_token=uuid4()))
    run()
    assert rows.get(Job, job_id).attempt == 0


def test_a_worker_that_one_message_woke_trains_every_job_that_waits(
    rows: Rows, dataset: str, fast_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_ids = [rows.job(dataset, steps=3) for _ in range(3)]
    monkeypatch.setattr(dispatch, "ENOUGH", 1)
    dispatch.wake("train", *job_ids)
    with redis.Redis.from_url(fast_settings.redis_url.get_secret_value()) as client:
        messages = client.lrange("train", 0, -1)
        assert len(messages) == 1
        body = json.loads(base64.b64decode(json.loads(messages[0])["body"]))
    standby = Standby(SMALL_TRAINER)
    monkeypatch.setattr(tasks, "standby", lambda: standby)
    try:
        tasks.train(*body[0])
    finally:
        standby.close()
    assert [rows.get(Job, job_id).status for job_id in job_ids] == ["succeeded"] * 3


@pytest.mark.parametrize("deaf", [False, True])
def test_cancelling_stops_the_trainer_and_keeps_its_checkpoint(
    rows: Rows, dataset: str, run: Callable[..., None], deaf: bool, monkeypatch: pytest.MonkeyPatch, fast_settings: Settings
) -> None:
    """A trainer that does not listen is killed after the grace period."""
    if deaf:
        monkeypatch.setattr(fast_settings, "stop_grace_seconds", 0.2)
    job_id = rows.job(dataset, steps=ENDLESS, checkpoint_every=5)

    def cancel() -> None:
        wait_for(lambda: rows.events(job_id, "checkpoint"))
        with rows.sessions.begin() as session:
            job = session.get(Job, job_id)
            assert job is not None
            request(session, job, Action.CANCEL)

    run("--step-seconds", "0.1", *(["--deaf"] if deaf else []), meanwhile=cancel)
    job = rows.get(Job, job_id)
    assert (job.status, job.error) == ("cancelled", None)
    assert job.finished_at is not None
    assert rows.events(job_id)[-1].type == "cancelled"


@pytest.mark.parametrize(
    ("action", "ends", "deafened"),
    [(Action.CANCEL, "cancelled", False), (Action.PAUSE, "paused", False), (Action.CANCEL, "cancelled", True)],
)
def test_what_is_asked_of_a_job_does_not_wait_for_the_heartbeat(
    rows: Rows,
    dataset: str,
    run: Callable[..., None],
    fast_settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    action: UserAction,
    ends: str,
    deafened: bool,
) -> None:
    """Nor where the connection that listens was broken meanwhile."""
    monkeypatch.setattr(fast_settings, "heartbeat_seconds", 60.0)
    monkeypatch.setattr(fast_settings, "lease_seconds", 180.0)
    job_id = rows.job(dataset, steps=ENDLESS)
    listening = "FROM pg_stat_activity WHERE datname = current_database() AND query = 'LISTEN difffit'"

    def listeners() -> Sequence[int]:
        with rows.sessions() as session:
            return session.scalars(text(f"SELECT pid {listening}")).all()

    def ask_while_it_trains() -> None:
        wait_for(lambda: rows.events(job_id, "progress"))
        assert len(wait_for(listeners)) == 1
        if deafened:
            with rows.sessions.begin() as session:
                session.execute(text(f"SELECT pg_terminate_backend(pid, 5000) {listening}"))
        ask(rows, job_id, action)

    run(meanwhile=ask_while_it_trains)
    [asked], [done] = rows.events(job_id, "pausing" if ends == "paused" else "cancelling"), rows.events(job_id, ends)
    assert (done.created_at - asked.created_at).total_seconds() < 15
    wait_for(lambda: listeners() == [])  # a server notices a little later that its client is gone


def test_a_lost_lease_kills_the_trainer_and_nothing_more_is_written(rows: Rows, dataset: str, run: Callable[..., None]) -> None:
    job_id = rows.job(dataset, steps=ENDLESS)
    thief = uuid4()
    seen: list[int] = []

    def steal() -> None:
        wait_for(lambda: rows.events(job_id, "progress"))
        with rows.sessions.begin() as session:
            session.execute(update(Job).values(lease_token=thief))
        seen.append(len(rows.events(job_id)))

    run(meanwhile=steal)
    job = rows.get(Job, job_id)
    assert (job.status, job.lease_token) == ("running", thief)
    assert len(rows.events(job_id)) == seen[0]


def test_a_stopped_worker_hands_the_job_back_and_the_next_goes_on(rows: Rows, dataset: str, run: Callable[..., None]) -> None:
    job_id = rows.job(dataset, steps=60, checkpoint_every=10)

    def shut_down() -> None:
        wait_for(lambda: rows.events(job_id, "checkpoint"))
        runtime.request_stop()

    run("--step-seconds", "0.05", meanwhile=shut_down)
    job = rows.get(Job, job_id)
    assert (job.status, job.attempt, job.lease_token) == ("queued", 0, None)
    runtime.forget_stop()
    stopped_at = rows.events(job_id, "checkpoint")[-1].data["step"]
    run()
    assert rows.get(Job, job_id).status == "succeeded"
    assert [event.data["resumed_from"] for event in rows.events(job_id, "started")] == [None, stopped_at]


def test_a_crash_is_tried_again_from_the_last_checkpoint(
    rows: Rows, dataset: str, run: Callable[..., None], fast_settings: Settings, store: ObjectStore
) -> None:
    job_id = rows.job(dataset, steps=20, checkpoint_every=5)
    run("--crash-at", "12")
    assert "SIGKILL" in rows.events(job_id, "warning")[0].data["message"]
    sweep(rows.sessions, fast_settings)
    assert rows.get(Job, job_id).status == "queued"
    run("--crash-at", "12")
    job = rows.get(Job, job_id)
    assert (job.status, job.attempt, job.error) == ("succeeded", 2, None)
    assert rows.events(job_id, "started")[1].data["resumed_from"] == 10
    logs = sorted(file.key for file in store.list(job_logs_prefix(job_id)))
    assert [store.get_bytes(key) for key in logs] == [b"--- attempt 1\nabout to die\n", b"--- attempt 2\n"]


def test_a_trainer_that_hangs_is_killed_and_the_job_goes_on_from_the_last_checkpoint(
    rows: Rows, dataset: str, run: Callable[..., None], fast_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = rows.job(dataset, steps=30, checkpoint_every=10)
    monkeypatch.setattr(fast_settings, "silence_seconds", 2.0)
    run("--hang-at", "12")
    hung = rows.get(Job, job_id)
    assert (hung.status, hung.attempt) == ("running", 1)
    assert "Attempt 1 of 3: The trainer reported nothing for 2 seconds" in rows.events(job_id, "warning")[-1].data["message"]
    sweep(runtime.sessions(), fast_settings)
    run("--hang-at", "12")
    job = rows.get(Job, job_id)
    assert (job.status, job.attempt, job.step) == ("succeeded", 2, 30)
    assert [event.data["resumed_from"] for event in rows.events(job_id, "started")] == [None, 10]


def test_after_the_last_crash_the_job_fails(
    rows: Rows, dataset: str, run: Callable[..., None], fast_settings: Settings
) -> None:
    job_id = rows.job(dataset, steps=20)
    for _ in range(fast_settings.max_attempts):
        sweep(rows.sessions, fast_settings)
        run("--crash-at", "1", "--always")
    job = rows.get(Job, job_id)
    assert job.status == "failed"
    assert job.error is not None
    assert job.error["code"] == "trainer_crashed"
    assert job.error["message"].endswith("about to die")
    assert rows.events(job_id)[-1].data == job.error


def test_a_failure_that_the_trainer_reports_is_the_jobs_error(rows: Rows, dataset: str, run: Callable[..., None]) -> None:
    job_id = rows.job(dataset)
    run("--fail-at", "2")
    job = rows.get(Job, job_id)
    error = {"code": "diverged", "message": "The loss became nan.", "param": "hyperparameters.learning_rate"}
    assert (job.status, job.error, job.step) == ("failed", error, 2)


def test_a_failed_job_that_is_tried_again_goes_on_from_its_last_checkpoint(
    rows: Rows, dataset: str, run: Callable[..., None]
) -> None:
    job_id = rows.job(dataset, steps=6, checkpoint_every=2)
    run("--fail-at", "5")
    ask(rows, job_id, Action.RETRY)
    run()
    job = rows.get(Job, job_id)
    assert (job.status, job.error, job.attempt) == ("succeeded", None, 1)
    assert [event.data["resumed_from"] for event in rows.events(job_id, "started")] == [None, 4]


def test_a_job_without_its_dataset_or_base_fails_at_once(rows: Rows, dataset: str, run: Callable[..., None]) -> None:
    jobs = [rows.job(dataset), rows.job(dataset)]
    with rows.sessions.begin() as session:
        session.execute(update(Job).where(Job.id == jobs[0]).values(base_model="gone"))
    run(jobs[0])
    with rows.sessions.begin() as session:
        session.execute(update(Dataset).values(content_key=None))
    run(jobs[1])
    errors = [rows.get(Job, job_id).error for job_id in jobs]
    assert [error and error["code"] for error in errors] == ["unknown_base_model", "dataset_missing"]


def test_a_waiting_trainer_that_died_is_replaced(rows: Rows, dataset: str, fast_settings: Settings) -> None:
    job_id = rows.job(dataset)
    standby = Standby(SMALL_TRAINER)
    standby.prepare()
    assert standby._waiting is not None
    standby._waiting.kill()
    assert run_next(standby)
    assert rows.get(Job, job_id).status == "succeeded"


def ask(rows: Rows, job_id: str, action: UserAction) -> None:
    with rows.sessions.begin() as session:
        request(session, session.get_one(Job, job_id), action)


def test_a_paused_job_leaves_its_worker_and_goes_on_where_it_stopped(
    rows: Rows, dataset: str, run: Callable[..., None]
) -> None:
    job_id = rows.job(dataset, steps=40, checkpoint_every=1000)

    def pause() -> None:
        wait_for(lambda: rows.events(job_id, "progress"))
        ask(rows, job_id, Action.PAUSE)

    run("--step-seconds", "0.1", meanwhile=pause)
    job = rows.get(Job, job_id)
    assert (job.status, job.attempt, job.lease_token, job.finished_at) == ("paused", 0, None, None)
    assert job.seconds_used > 0
    stopped_at = rows.events(job_id, "checkpoint")[-1].data["step"]
    ask(rows, job_id, Action.RESUME)
    run()
    assert rows.get(Job, job_id).status == "succeeded"
    assert [event.data["resumed_from"] for event in rows.events(job_id, "started")] == [None, stopped_at]
    told = [event.type for event in rows.events(job_id) if event.type not in {"progress", "validation", "checkpoint", "sample"}]
    assert told == ["started", "pausing", "paused", "resumed", "started", "adapter", "succeeded"]


def test_a_job_that_has_used_its_time_fails_and_keeps_its_checkpoint(
    rows: Rows, dataset: str, run: Callable[..., None], sessions: sessionmaker[Session]
) -> None:
    job_id = rows.job(dataset, steps=ENDLESS, checkpoint_every=ENDLESS)
    with sessions.begin() as session:
        session.execute(update(Job).values(max_duration=100, seconds_used=97.0))
    run("--step-seconds", "0.1")
    job = rows.get(Job, job_id)
    assert job.error is not None
    assert (job.status, job.error["code"], job.error["param"]) == ("failed", "max_duration_exceeded", "max_duration")
    assert 100 < job.seconds_used < 110
    assert rows.events(job_id, "checkpoint")[-1].data["step"] == rows.events(job_id, "progress")[-1].data["step"]


def test_only_the_newest_checkpoints_are_kept(
    rows: Rows, dataset: str, run: Callable[..., None], sessions: sessionmaker[Session], store: ObjectStore
) -> None:
    job_id = rows.job(dataset, steps=12, checkpoint_every=2)
    run()
    with sessions() as session:
        kept = {row.step: row.object_key for row in session.scalars(select(Checkpoint))}
    assert sorted(kept) == [8, 10, 12]
    assert {file.key for file in store.list(f"jobs/{job_id}/") if file.key.endswith(".tar")} == set(kept.values())


@pytest.mark.parametrize("damaged", [1, 3])
def test_a_lost_checkpoint_costs_steps_not_the_job(
    rows: Rows,
    dataset: str,
    run: Callable[..., None],
    fast_settings: Settings,
    store: ObjectStore,
    damaged: int,
) -> None:
    """One kept file is garbled, or each is lost in another way; the job's events say so, and its rows name whole ones again."""
    job_id = rows.job(dataset, steps=12, checkpoint_every=2)
    run("--crash-at", "9")
    with rows.sessions() as session:
        newest_first = session.scalars(select(Checkpoint).order_by(Checkpoint.step.desc())).all()
    assert [row.step for row in newest_first] == [8, 6, 4]
    hurt = newest_first[:damaged]
    content = store.get_bytes(hurt[0].object_key)
    store.put_bytes(hurt[0].object_key, content.replace(b"state", b"stale"))
    for row in hurt[1:2]:
        store.put_bytes(row.object_key, content[:700])
    for row in hurt[2:]:
        store.delete(row.object_key)
    sweep(rows.sessions, fast_settings)
    run()
    job = rows.get(Job, job_id)
    assert (job.status, job.attempt) == ("succeeded", 2)
    assert [event.data["step"] for event in rows.events(job_id, "checkpoint_damaged")] == [8, 6, 4][:damaged]
    assert [event.data["resumed_from"] for event in rows.events(job_id, "started")] == [None, 6 if damaged == 1 else None]
    with rows.sessions() as session:
        kept = {row.step: row.object_key for row in session.scalars(select(Checkpoint))}
    assert sorted(kept) == [8, 10, 12]
    assert {file.key for file in store.list(f"jobs/{job_id}/") if file.key.endswith(".tar")} == set(kept.values())


def test_out_of_memory_halves_what_the_device_holds_until_it_fits(rows: Rows, dataset: str, run: Callable[..., None]) -> None:
    job_id = rows.job(dataset, batch_size=8)
    for _ in range(3):
        run("--memory", "2")
    job = rows.get(Job, job_id)
    assert (job.status, job.attempt) == ("succeeded", 1)
    settings = job.training_spec["hyperparameters"]
    assert (settings["batch_size"], settings["micro_batch_size"]) == (8, 2)
    assert [event.data["micro_batch_size"] for event in rows.events(job_id, "out_of_memory")] == [4, 2]


def test_out_of_memory_with_one_image_fails_and_says_what_to_do(rows: Rows, dataset: str, run: Callable[..., None]) -> None:
    job_id = rows.job(dataset, batch_size=2)
    for _ in range(2):
        run("--memory", "0")
    job = rows.get(Job, job_id)
    assert job.error is not None
    assert (job.status, job.error["code"], job.error["param"]) == (
        *("failed", "out_of_memory"),
        "hyperparameters.micro_batch_size",
    )
    assert "gradient_checkpointing" in job.error["message"]


def test_a_full_disk_costs_an_attempt_and_then_jobs_wait_for_room(
    rows: Rows, dataset: str, run: Callable[..., None], small_disk: Path, fast_settings: Settings
) -> None:
    """The disk fills up while the trainer writes its events and checkpoints: it dies, and what it had stored is kept."""
    job_id = rows.job(dataset, steps=ENDLESS, checkpoint_every=5)
    filler = small_disk / "filler"

    def fill_and_clear() -> None:
        wait_for(lambda: rows.events(job_id, "checkpoint"))
        trainers = {process for process in descendants(os.getpid()) if is_trainer(process[0])}
        assert trainers
        fill(filler)
        wait_for(lambda: not alive(trainers))
        filler.unlink()

    run(meanwhile=fill_and_clear)
    fill(filler)
    sweep(rows.sessions, fast_settings)
    run()
    assert (rows.get(Job, job_id).status, rows.get(Job, job_id).attempt) == ("queued", 1)
    filler.unlink()
    reached = rows.events(job_id, "checkpoint")[-1].data["step"]
    with rows.sessions.begin() as session:
        spec = rows.get(Job, job_id).training_spec
        shorter = spec["hyperparameters"] | {"steps": reached + 5}
        session.execute(update(Job).values(training_spec=spec | {"hyperparameters": shorter}))
    run()
    assert rows.get(Job, job_id).status == "succeeded"
    assert rows.events(job_id, "started")[-1].data["resumed_from"] == reached


def is_trainer(pid: int) -> bool:
    return b"small_trainer.py" in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_cancelled_job_does_not_wait_for_a_store_that_is_away(
    rows: Rows, dataset: str, run: Callable[..., None], tmp_path: Path
) -> None:
    job_id = rows.job(dataset, steps=ENDLESS, checkpoint_every=5)
    (tmp_path / "files" / "jobs").write_text("in the way")

    def cancel() -> None:
        wait_for(lambda: rows.events(job_id, "progress"))
        ask(rows, job_id, Action.CANCEL)

    run(meanwhile=cancel)
    assert rows.get(Job, job_id).status == "cancelled"


def test_work_goes_on_while_the_store_is_away(
    rows: Rows, dataset: str, run: Callable[..., None], store: ObjectStore, tmp_path: Path
) -> None:
    """A file where the folder of all jobs should be: nothing can be stored below it."""
    job_id = rows.job(dataset, steps=30, checkpoint_every=5)
    (tmp_path / "files" / "jobs").write_text("in the way")

    def bring_back() -> None:
        wait_for(lambda: rows.events(job_id, "progress"))
        scratch = next((tmp_path / "work").glob(f"{job_id}.*"))
        wait_for(lambda: '"succeeded"' in (scratch / "events.jsonl").read_text())  # the trainer did not wait
        assert rows.events(job_id, "checkpoint") == []
        (tmp_path / "files" / "jobs").unlink()

    run(meanwhile=bring_back)
    job = rows.get(Job, job_id)
    assert (job.status, job.attempt, job.error) == ("succeeded", 1, None)
    assert [event.data["step"] for event in rows.events(job_id, "checkpoint")] == [5, 10, 15, 20, 25, 30]
