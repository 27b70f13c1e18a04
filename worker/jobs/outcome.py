"""How a job ends, is tried again or waits for another worker, after its trainer has ended."""

import signal
from typing import Any, Literal

from difffit_core.tasks.words import words_of
from jobstore.jobs import events
from jobstore.jobs.lifecycle import JobStatus
from jobstore.kit import leases
from jobstore.kit.dispatch import wake
from jobstore.kit.ids import new_id
from jobstore.kit.settings import get_settings
from jobstore.kit.tables import Job
from worker.jobs.trainer import TrainerProcess
from worker.kit.child import Event
from worker.kit.lease import Lease
from worker.kit.outages import persist
from worker.kit.runtime import sessions, stop_requested

LAST_LINES = 20  # of a crashed trainer's log that go into the job's error

CutOff = Literal["out_of_time", "silent"]  # why a trainer was ended before its last step, where nobody asked for it


def decide(job: Job, trainer: TrainerProcess, ending: Event | None, lease: Lease, cut_off: CutOff | None) -> None:
    """What the trainer's end means for the job."""
    status, how = trainer.exit_status(), ending and ending["type"]
    if status == 0 and ending is not None and how == "succeeded":
        _end(lease, JobStatus.SUCCEEDED, {"seconds": ending["seconds"]})
    elif lease.asked_to_stop:
        stop(lease)
    elif cut_off == "out_of_time":
        message = f"The job has had a worker for its max_duration of {job.max_duration} seconds. Its last checkpoint is kept."
        fail(lease, {"code": "max_duration_exceeded", "message": message, "param": "max_duration"})
    elif ending is not None and how == "failed":
        _failed(job, lease, ending)
    elif cut_off == "silent":
        what = f"The trainer reported nothing for {get_settings().silence_seconds:g} seconds and was killed."
        crashed(job, lease, f"{what} {_last_lines(trainer.log())}", "trainer_silent")
    elif stop_requested():
        stop(lease)
    else:
        crashed(job, lease, f"The trainer ended {_how(status)}. {_last_lines(trainer.log())}", "trainer_crashed")


def _failed(job: Job, lease: Lease, ending: Event) -> None:
    """A failure that the trainer tells of is the job's error, where nothing else can be tried."""
    if ending["code"] == "out_of_memory":
        _out_of_memory(job, lease, ending)
    elif ending["code"] == "disk_full":
        crashed(job, lease, ending["message"], ending["code"])
    else:
        fail(lease, {name: ending.get(name) for name in ("code", "message", "param")})


def _out_of_memory(job: Job, lease: Lease, ending: Event) -> None:
    """Queue the job again with half as many examples on the device at a time, out of the same batch; fail it at one."""
    plan = job.plan
    settings, examples = plan.hyperparameters, words_of(plan.task.type).examples
    held = min(settings.micro_batch_size, settings.batch_size)
    if held == 1:
        advice = "One example at a time is too much for this device: set gradient_checkpointing, a smaller resolution or base."
        fail(lease, {"code": "out_of_memory", "message": f"{advice} {ending['message']}", "param": ending["param"]})
        return
    message = f"Out of memory with {held} {examples} at a time; the job goes on with {held // 2}, so the batch stays as it is."
    halved = plan.model_copy(update={"hyperparameters": settings.model_copy(update={"micro_batch_size": held // 2})})
    event_id = new_id("evt")

    def halve() -> None:
        with sessions().begin() as session:
            lease.write(session, training_spec=halved.model_dump(mode="json"))
            events.append(session, job.id, "out_of_memory", {"message": message, "micro_batch_size": held // 2}, event_id)
            leases.stop(session, job.id, lease.token, message)

    persist(lease, halve)
    wake("train", job.id)


def _how(status: int | None) -> str:
    return f"by signal {signal.Signals(-status).name}" if status is not None and status < 0 else f"with exit status {status}"


def _last_lines(log: bytes) -> str:
    lines = log.decode(errors="replace").replace("\0", "").strip().splitlines()[-LAST_LINES:]
    return "\n".join(["The last it wrote:", *(lines or ["(nothing)"])])


def crashed(job: Job, lease: Lease, what: str, code: str) -> None:
    """Fail the job after its last attempt; before that, give the attempt up, and the next sweep queues the job again."""
    attempts = get_settings().max_attempts
    message = f"Attempt {job.attempt} of {attempts}: {what}"
    if job.attempt >= attempts:
        fail(lease, {"code": code, "message": message, "param": None})
        return
    event_id = new_id("evt")

    def warn() -> None:
        with sessions().begin() as session:
            lease.write(session)
            events.append(session, job.id, "warning", {"message": message}, event_id)

    persist(lease, warn)
    lease.expire()


def fail(lease: Lease, error: dict[str, Any]) -> None:
    _end(lease, JobStatus.FAILED, error, error=error)


def _end(lease: Lease, status: JobStatus, data: dict[str, Any], **values: Any) -> None:
    """End the job with the event of the same name. Where the first try was committed unanswered, the second is LeaseLost."""

    def end() -> None:
        with sessions().begin() as session:
            lease.finish(session, status, seconds_remaining=None, **values)
            events.append(session, lease.row_id, status, data)

    persist(lease, end)


def stop(lease: Lease) -> None:
    """Give the job back before its end: cancelled, paused, or to another worker, which goes on from the last checkpoint."""
    with sessions().begin() as session:
        after = leases.stop(session, lease.row_id, lease.token, "The worker was stopped; the job waits for another.")
    if after is JobStatus.QUEUED:
        wake("train", lease.row_id)
