"""Runs one job: claims it, stages its files, has a trainer work on them, records its reports and decides how the job ended."""

import json
import logging
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from difffit_core.errors import DiffFitError
from jobstore import events, leases, queue
from jobstore.dispatch import wake
from jobstore.ids import new_id
from jobstore.lifecycle import JobStatus
from jobstore.objects import job_logs_prefix
from jobstore.settings import get_settings
from jobstore.tables import Job
from worker.bell import Bell
from worker.child import Standby, TrainerProcess
from worker.encodings import stage_encodings
from worker.job_files import stage
from worker.lease import Lease, LeaseLost, Stopping
from worker.outages import persist
from worker.recorder import Event, Recorder
from worker.runtime import has_room, objects, scratch_folder, sessions, stop_requested

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.05  # between looks at the trainer's events; far below what a person notices
LAST_LINES = 20  # of a crashed trainer's log that go into the job's error

CutOff = Literal["out_of_time", "silent"]  # why a trainer was ended before its last step, where nobody asked for it


def run_next(standby: Standby) -> bool:
    """Claim the job whose turn it is and bring it to an end; False where no job waits or there is no room to work in."""
    settings = get_settings()
    if not has_room(settings):
        return False
    with sessions().begin() as session:
        claimed = queue.claim_next(session, settings.lease_seconds, settings.tenant_running_jobs)
        if claimed is None:
            return False
        job_id, token = claimed
        job = session.get_one(Job, job_id)
    with (
        Lease(sessions(), Job, job_id, token, settings) as lease,
        Bell(settings.database_url.get_secret_value(), job_id, lease.look),
        scratch_folder(job_id, token) as spec_dir,
    ):
        try:
            _run(job, lease, spec_dir, standby)
        except LeaseLost:
            logger.warning("Lost the lease of job %s; its trainer was killed", job_id)
        except Stopping:
            _stop(lease)
    return True


def _run(job: Job, lease: Lease, spec_dir: Path, standby: Standby) -> None:
    began = time.monotonic()
    try:
        persist(lease, lambda: stage(sessions(), job, spec_dir, objects(), get_settings()), fetches=True)
        staged = persist(lease, lambda: stage_encodings(sessions(), job, spec_dir, objects()), fetches=True)
    except DiffFitError as error:
        _fail(lease, {"code": error.code, "message": error.message, "param": error.param})
        return
    except OSError as error:
        _crashed(job, lease, f"The worker could not prepare the job's files: {error}.", "staging_failed")
        return
    lease.check()
    recorder = Recorder(sessions(), objects(), lease, job, spec_dir, staged)
    if staged.warning is not None:
        recorder.record({"type": "warning", "message": staged.warning})
    trainer = standby.begin(spec_dir)
    out_of_time = None if job.max_duration is None else began + job.max_duration - job.seconds_used
    try:
        cut_off = _follow(trainer, recorder, lease, spec_dir, out_of_time)
    finally:
        trainer.kill()
        if not lease.lost.is_set():
            _keep_log(job, trainer, lease)
    _decide(job, trainer, recorder.ending, lease, cut_off)


def _follow(
    trainer: TrainerProcess, recorder: Recorder, lease: Lease, spec_dir: Path, out_of_time: float | None
) -> CutOff | None:
    """Record events until the trainer has exited; pass on the wish to stop, and insist after the grace period.

    It is stopped when `out_of_time`, a value of the monotonic clock, has come, and killed when it has been silent for too long.
    """
    reported = read_events(spec_dir / "events.jsonl")
    kill_at: float | None = None
    cut_off: CutOff | None = None
    heard_at = time.monotonic()
    while True:
        exited = trainer.exit_status() is not None  # asked first: what it wrote before its end is read below
        event = next(reported)
        if lease.lost.is_set():
            raise LeaseLost(lease.row_id)
        if cut_off is None and not exited:
            if out_of_time is not None and time.monotonic() > out_of_time:
                cut_off = "out_of_time"
            elif event is None and time.monotonic() > heard_at + get_settings().silence_seconds:
                cut_off = "silent"
                trainer.kill()
        if kill_at is None and (lease.asked_to_stop or cut_off == "out_of_time" or stop_requested()):
            trainer.stop()
            kill_at = time.monotonic() + get_settings().stop_grace_seconds
        if kill_at is not None and time.monotonic() > kill_at:
            trainer.kill()
        if event is not None:
            recorder.record(event)
            heard_at = time.monotonic()  # afterwards: the wait for a database that is away is not the trainer's silence
        elif exited:
            recorder.flush()
            return cut_off
        else:
            time.sleep(POLL_SECONDS)


def read_events(path: Path) -> Iterator[Event | None]:
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


def _decide(job: Job, trainer: TrainerProcess, ending: Event | None, lease: Lease, cut_off: CutOff | None) -> None:
    """What the trainer's end means for the job."""
    status, how = trainer.exit_status(), ending and ending["type"]
    if status == 0 and ending is not None and how == "succeeded":
        _end(lease, JobStatus.SUCCEEDED, {"seconds": ending["seconds"]})
    elif lease.asked_to_stop:
        _stop(lease)
    elif cut_off == "out_of_time":
        message = f"The job has had a worker for its max_duration of {job.max_duration} seconds. Its last checkpoint is kept."
        _fail(lease, {"code": "max_duration_exceeded", "message": message, "param": "max_duration"})
    elif ending is not None and how == "failed":
        _failed(job, lease, ending)
    elif cut_off == "silent":
        what = f"The trainer reported nothing for {get_settings().silence_seconds:g} seconds and was killed."
        _crashed(job, lease, f"{what} {_last_lines(trainer.log())}", "trainer_silent")
    elif stop_requested():
        _stop(lease)
    else:
        _crashed(job, lease, f"The trainer ended {_how(status)}. {_last_lines(trainer.log())}", "trainer_crashed")


def _failed(job: Job, lease: Lease, ending: Event) -> None:
    """A failure that the trainer tells of is the job's error, where nothing else can be tried."""
    if ending["code"] == "out_of_memory":
        _out_of_memory(job, lease, ending)
    elif ending["code"] == "disk_full":
        _crashed(job, lease, ending["message"], ending["code"])
    else:
        _fail(lease, {name: ending.get(name) for name in ("code", "message", "param")})


def _out_of_memory(job: Job, lease: Lease, ending: Event) -> None:
    """Queue the job again with half as many images on the device at a time, out of the same batch; fail it at one image."""
    settings = job.training_spec["hyperparameters"]
    held = min(settings["micro_batch_size"], settings["batch_size"])
    if held == 1:
        advice = "One image at a time is too much for this device: set gradient_checkpointing, a smaller resolution or base."
        _fail(lease, {"code": "out_of_memory", "message": f"{advice} {ending['message']}", "param": ending["param"]})
        return
    message = f"Out of memory with {held} images at a time; the job goes on with {held // 2}, so the batch stays as it is."
    spec = job.training_spec | {"hyperparameters": settings | {"micro_batch_size": held // 2}}
    event_id = new_id("evt")

    def halve() -> None:
        with sessions().begin() as session:
            lease.write(session, training_spec=spec)
            events.append(session, job.id, "out_of_memory", {"message": message, "micro_batch_size": held // 2}, event_id)
            leases.stop(session, job.id, lease.token, message)

    persist(lease, halve)
    wake("train", job.id)


def _how(status: int | None) -> str:
    return f"by signal {signal.Signals(-status).name}" if status is not None and status < 0 else f"with exit status {status}"


def _last_lines(log: bytes) -> str:
    lines = log.decode(errors="replace").replace("\0", "").strip().splitlines()[-LAST_LINES:]
    return "\n".join(["The last it wrote:", *(lines or ["(nothing)"])])


def _crashed(job: Job, lease: Lease, what: str, code: str) -> None:
    """Fail the job after its last attempt; before that, give the attempt up, and the next sweep queues the job again."""
    attempts = get_settings().max_attempts
    message = f"Attempt {job.attempt} of {attempts}: {what}"
    if job.attempt >= attempts:
        _fail(lease, {"code": code, "message": message, "param": None})
        return
    event_id = new_id("evt")

    def warn() -> None:
        with sessions().begin() as session:
            lease.write(session)
            events.append(session, job.id, "warning", {"message": message}, event_id)

    persist(lease, warn)
    lease.expire()


def _fail(lease: Lease, error: dict[str, Any]) -> None:
    _end(lease, JobStatus.FAILED, error, error=error)


def _end(lease: Lease, status: JobStatus, data: dict[str, Any], **values: Any) -> None:
    """End the job with the event of the same name. Where the first try was committed unanswered, the second is LeaseLost."""

    def end() -> None:
        with sessions().begin() as session:
            lease.finish(session, status, seconds_remaining=None, **values)
            events.append(session, lease.row_id, status, data)

    persist(lease, end)


def _stop(lease: Lease) -> None:
    """Give the job back before its end: cancelled, paused, or to another worker, which goes on from the last checkpoint."""
    with sessions().begin() as session:
        after = leases.stop(session, lease.row_id, lease.token, "The worker was stopped; the job waits for another.")
    if after is JobStatus.QUEUED:
        wake("train", lease.row_id)


def _keep_log(job: Job, trainer: TrainerProcess, lease: Lease) -> None:
    """Keep this attempt's output. A store that is away costs the log, not the job."""
    key = f"{job_logs_prefix(job.id)}{job.claimed_at:%Y%m%dT%H%M%S.%f}-{lease.token}.txt"
    try:
        objects().put_bytes(key, f"--- attempt {job.attempt}\n".encode() + trainer.log())
    except DiffFitError:
        logger.exception("The log of job %s could not be stored", job.id)
