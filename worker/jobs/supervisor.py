"""Runs one job: claims it, stages its files, has a trainer work on them and records its reports."""

import logging
import time
from pathlib import Path

from difffit_core.errors import DiffFitError
from jobstore.jobs import queue
from jobstore.kit.objects import job_logs_prefix
from jobstore.kit.settings import get_settings
from jobstore.kit.tables import Job
from worker.datasets.encodings import stage_encodings
from worker.jobs import outcome as endings
from worker.jobs.files import stage
from worker.jobs.outcome import CutOff
from worker.jobs.recorder import Recorder
from worker.jobs.trainer import Standby, TrainerProcess
from worker.kit.child import read_events
from worker.kit.interrupts import Interrupts
from worker.kit.lease import Lease, LeaseLost, Stopping
from worker.kit.outages import persist
from worker.kit.runtime import has_room, objects, scratch_folder, sessions, stop_requested

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.05  # between looks at the trainer's events; far below what a person notices


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
        Interrupts(settings.database_url.get_secret_value(), job_id, lease.look),
        scratch_folder(job_id, token) as spec_dir,
    ):
        try:
            _run(job, lease, spec_dir, standby)
        except LeaseLost:
            logger.warning("Lost the lease of job %s; its trainer was killed", job_id)
        except Stopping:
            endings.stop(lease)
    return True


def _run(job: Job, lease: Lease, spec_dir: Path, standby: Standby) -> None:
    began = time.monotonic()
    try:
        told = persist(lease, lambda: stage(sessions(), job, spec_dir, objects(), get_settings()), fetches=True)
        staged = persist(lease, lambda: stage_encodings(sessions(), job, spec_dir, objects()), fetches=True)
    except DiffFitError as error:
        endings.fail(lease, error.reason())
        return
    except OSError as error:
        endings.crashed(job, lease, f"The worker could not prepare the job's files: {error}.", "staging_failed")
        return
    lease.check()
    recorder = Recorder(sessions(), objects(), lease, job, spec_dir, staged)
    for event in told:
        recorder.record(event)
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
    endings.decide(job, trainer, recorder.ending, lease, cut_off)


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
            trainer.terminate()
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


def _keep_log(job: Job, trainer: TrainerProcess, lease: Lease) -> None:
    """Keep this attempt's output. A store that is away costs the log, not the job."""
    key = f"{job_logs_prefix(job.id)}{job.claimed_at:%Y%m%dT%H%M%S.%f}-{lease.token}.txt"
    try:
        objects().put_bytes(key, f"--- attempt {job.attempt}\n".encode() + trainer.log())
    except DiffFitError:
        logger.exception("The log of job %s could not be stored", job.id)
