"""Runs one job: claims it, stages its files, has a trainer work on them, records its reports and decides how the job ended."""

import json
import logging
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from difffit_core.errors import DiffFitError
from jobstore import events, leases, queue
from jobstore.dispatch import wake
from jobstore.errors import StorageError
from jobstore.lifecycle import JobStatus
from jobstore.objects import job_log_key
from jobstore.settings import get_settings
from jobstore.tables import Job
from worker.child import Standby, TrainerProcess
from worker.job_files import stage
from worker.lease import Lease, LeaseLost, Stopping
from worker.recorder import Event, Recorder
from worker.runtime import objects, scratch_folder, sessions, stop_requested

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.05  # between looks at the trainer's events; far below what a person notices
LAST_LINES = 20  # of a crashed trainer's log that go into the job's error


def run_next(standby: Standby) -> bool:
    """Claim the job whose turn it is and bring it to an end; False where no job waits."""
    settings = get_settings()
    with sessions().begin() as session:
        claimed = queue.claim_next(session, settings.lease_seconds, settings.tenant_running_jobs)
        if claimed is None:
            return False
        job_id, token = claimed
        job = session.get_one(Job, job_id)
    with Lease(sessions(), Job, job_id, token, settings) as lease, scratch_folder(job_id, token) as spec_dir:
        try:
            _run(job, lease, spec_dir, standby)
        except LeaseLost:
            logger.warning("Lost the lease of job %s; its trainer was killed", job_id)
        except Stopping:
            _stop(lease)
    return True


def _run(job: Job, lease: Lease, spec_dir: Path, standby: Standby) -> None:
    try:
        stage(sessions(), job, spec_dir, objects(), get_settings())
    except StorageError:
        raise  # the store may come back: the lease expires and the job is tried again
    except DiffFitError as error:
        _end(lease, JobStatus.FAILED, {"code": error.code, "message": error.message, "param": error.param})
        return
    lease.check()
    recorder = Recorder(sessions(), objects(), lease, job, spec_dir)
    trainer = standby.begin(spec_dir)
    try:
        _follow(trainer, recorder, lease, spec_dir)
    finally:
        trainer.kill()
        if not lease.lost.is_set():
            _keep_log(job, trainer)
    _decide(job, trainer, recorder.ending, lease)


def _follow(trainer: TrainerProcess, recorder: Recorder, lease: Lease, spec_dir: Path) -> None:
    """Record events until the trainer has exited; pass on the wish to stop, and insist after the grace period."""
    reported = _events(spec_dir / "events.jsonl")
    kill_at: float | None = None
    while True:
        exited = trainer.exit_status() is not None  # asked first: what it wrote before its end is read below
        event = next(reported)
        if lease.lost.is_set():
            raise LeaseLost(lease.row_id)
        if kill_at is None and (lease.asked_to_stop or stop_requested()):
            trainer.stop()
            kill_at = time.monotonic() + get_settings().stop_grace_seconds
        if kill_at is not None and time.monotonic() > kill_at:
            trainer.kill()
        if event is not None:
            recorder.record(event)
        elif exited:
            recorder.flush()
            return
        else:
            time.sleep(POLL_SECONDS)


def _events(path: Path) -> Iterator[Event | None]:
    """The trainer's events as they come, and None where there is no new one; a line that is not yet complete waits."""
    while not path.exists():
        yield None
    rest = ""
    with path.open(encoding="utf-8") as file:
        while True:
            *lines, rest = (rest + file.read()).split("\n")
            yield from (json.loads(line) for line in lines)
            if not lines:
                yield None


def _decide(job: Job, trainer: TrainerProcess, ending: Event | None, lease: Lease) -> None:
    """What the trainer's end means for the job."""
    status, how = trainer.exit_status(), ending and ending["type"]
    if status == 0 and ending is not None and how == "succeeded":
        _end(lease, JobStatus.SUCCEEDED, {"seconds": ending["seconds"]})
    elif lease.asked_to_stop:
        _stop(lease)
    elif ending is not None and how == "failed":
        _end(lease, JobStatus.FAILED, {name: ending.get(name) for name in ("code", "message", "param")})
    elif stop_requested():
        _stop(lease)
    else:
        _crashed(job, status, trainer.log(), lease)


def _crashed(job: Job, status: int | None, log: bytes, lease: Lease) -> None:
    """Fail the job after its last attempt; before that, give the attempt up, and the next sweep queues the job again."""
    how = f"by signal {signal.Signals(-status).name}" if status is not None and status < 0 else f"with exit status {status}"
    lines = log.decode(errors="replace").replace("\0", "").strip().splitlines()[-LAST_LINES:]
    attempts = f"attempt {job.attempt} of {get_settings().max_attempts}"
    message = "\n".join([f"The trainer ended {how} ({attempts}). The last it wrote:", *(lines or ["(nothing)"])])
    if job.attempt >= get_settings().max_attempts:
        _end(lease, JobStatus.FAILED, {"code": "trainer_crashed", "message": message, "param": None})
        return
    with sessions().begin() as session:
        lease.write(session)
        events.append(session, job.id, "warning", {"message": message})
    lease.expire()


def _end(lease: Lease, status: JobStatus, data: dict[str, Any]) -> None:
    """End the job with the event of the same name; the data of a failure is the job's error."""
    values = {"error": data} if status is JobStatus.FAILED else {}
    with sessions().begin() as session:
        lease.finish(session, status, seconds_remaining=None, **values)
        events.append(session, lease.row_id, status, data)


def _stop(lease: Lease) -> None:
    """Give the job back before its end: cancelled, paused, or to another worker, which goes on from the last checkpoint."""
    message = "The worker was stopped; the job waits for another."
    with sessions().begin() as session:
        after = leases.stop(session, lease.row_id, lease.token, message)
    if after is JobStatus.QUEUED:
        wake("train", lease.row_id)


def _keep_log(job: Job, trainer: TrainerProcess) -> None:
    """Add this attempt's output to the job's log object. A store that is away costs the log, not the job."""
    key = job_log_key(job.id)
    try:
        earlier = objects().get_bytes(key) if objects().exists(key) else b""
        objects().put_bytes(key, earlier + f"--- attempt {job.attempt}\n".encode() + trainer.log())
    except Exception:  # obstore has many kinds of errors
        logger.exception("The log of job %s could not be stored", job.id)
