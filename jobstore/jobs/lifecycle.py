"""The life of a job as one state machine: which action leads from which status to which, and who may take it.

The API, the supervisor and the sweeper all ask this table; `leases` and `queue` write what it says.
"""

from enum import StrEnum
from typing import Literal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from jobstore.jobs import events
from jobstore.kit.errors import ConflictError
from jobstore.kit.tables import Dataset, Job


class JobStatus(StrEnum):
    VALIDATING = "validating"  # part of the contract; no job is in it, because POST /jobs answers after every check
    QUEUED = "queued"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Actor(StrEnum):
    USER = "user"  # through the API
    WORKER = "worker"  # the supervisor that holds the job's lease
    SWEEPER = "sweeper"  # on behalf of a worker that fell silent


class Action(StrEnum):
    CANCEL = "cancel"
    PAUSE = "pause"
    RESUME = "resume"
    RETRY = "retry"
    CLAIM = "claim"
    STOP = "stop"  # the trainer has ended before its last step, and what it reached is kept
    SUCCEED = "succeed"
    FAIL = "fail"
    LOSE = "lose"  # the worker fell silent, and attempts are left
    GIVE_UP = "give_up"  # the worker fell silent, and none is left


S, A = JobStatus, Action
UserAction = Literal[Action.CANCEL, Action.PAUSE, Action.RESUME, Action.RETRY]

ACTORS: dict[Action, Actor] = {
    **dict.fromkeys((A.CANCEL, A.PAUSE, A.RESUME, A.RETRY), Actor.USER),
    **dict.fromkeys((A.CLAIM, A.STOP, A.SUCCEED, A.FAIL), Actor.WORKER),
    **dict.fromkeys((A.LOSE, A.GIVE_UP), Actor.SWEEPER),
}
# An action that leads to where the job is already asks for nothing: repeating a request is safe.
TRANSITIONS: dict[JobStatus, dict[Action, JobStatus]] = {
    S.VALIDATING: {},
    S.QUEUED: {A.CANCEL: S.CANCELLED, A.PAUSE: S.PAUSED, A.RESUME: S.QUEUED, A.CLAIM: S.RUNNING},
    S.RUNNING: {
        **{A.CANCEL: S.CANCELLING, A.PAUSE: S.PAUSING, A.RESUME: S.RUNNING},
        **{A.STOP: S.QUEUED, A.SUCCEED: S.SUCCEEDED, A.FAIL: S.FAILED, A.LOSE: S.QUEUED, A.GIVE_UP: S.FAILED},
    },
    # A job that ends before it sees the request has ended as it ended.
    S.PAUSING: {
        **{A.CANCEL: S.CANCELLING, A.PAUSE: S.PAUSING},
        **{A.STOP: S.PAUSED, A.SUCCEED: S.SUCCEEDED, A.FAIL: S.FAILED, A.LOSE: S.PAUSED, A.GIVE_UP: S.PAUSED},
    },
    S.PAUSED: {A.CANCEL: S.CANCELLED, A.PAUSE: S.PAUSED, A.RESUME: S.QUEUED},
    S.CANCELLING: {
        A.CANCEL: S.CANCELLING,
        **{A.STOP: S.CANCELLED, A.SUCCEED: S.SUCCEEDED, A.FAIL: S.FAILED, A.LOSE: S.CANCELLED, A.GIVE_UP: S.CANCELLED},
    },
    S.SUCCEEDED: {},
    S.FAILED: {A.RETRY: S.QUEUED},
    S.CANCELLED: {A.RETRY: S.QUEUED},
}
TERMINAL = frozenset({S.SUCCEEDED, S.FAILED, S.CANCELLED})
WITH_WORKER = frozenset({S.RUNNING, S.PAUSING, S.CANCELLING})


def sources(action: Action) -> dict[JobStatus, JobStatus]:
    """{status: the next one} of the statuses in which an action may be taken."""
    return {status: actions[action] for status, actions in TRANSITIONS.items() if action in actions}


def request(session: Session, job: Job, action: UserAction) -> bool:
    """What a user asks of a job: change its status and append an event; False where the job is there already.

    What no worker holds changes at once; a running job becomes `cancelling` or `pausing`, which its worker sees. A retry goes
    on from the last checkpoint with fresh attempts and a fresh time limit. Raises ConflictError where the status forbids it.
    """
    session.refresh(job, with_for_update=True)
    before = JobStatus(job.status)
    after = TRANSITIONS[before].get(action)
    if after is None:
        raise _refusal(before, action)
    if after is before:
        return False
    if action is A.RETRY:
        _require_dataset(session, job)
        job.attempt, job.seconds_used, job.error, job.finished_at = 0, 0.0, None, None
    job.status = after
    now = session.scalar(select(func.now()))
    if after in TERMINAL:
        job.finished_at = now
    if after is S.QUEUED:
        job.woken_at = now
    events.append(session, job.id, {A.RESUME: "resumed", A.RETRY: "retried"}.get(action, after), {})
    if before in WITH_WORKER:
        events.notify(session, "asked", job.id)
    return True


def _require_dataset(session: Session, job: Job) -> None:
    """Jobs that have ended keep nobody from deleting their dataset."""
    status = session.scalar(select(Dataset.status).where(Dataset.id == job.dataset_id).with_for_update(read=True))
    if status != "ready":
        raise ConflictError(
            f"The job's dataset {job.dataset_id} is {status}. Upload it again and post a new job.", code=f"dataset_{status}"
        )


def _refusal(status: JobStatus, action: Action) -> ConflictError:
    if action is A.RETRY:
        if status is S.SUCCEEDED:
            return ConflictError("The job has succeeded: post a new one to train again.", code="job_already_succeeded")
        return ConflictError(f"The job is {status}; only a failed or cancelled one can be retried.", code="job_not_ended")
    if status in TERMINAL:
        hint = " It can be retried." if A.RETRY in TRANSITIONS[status] else ""
        return ConflictError(f"The job has ended already: it is {status}.{hint}", code="job_already_ended")
    return ConflictError(f"The job is {status}; wait until it is over and then {action} it.", code=f"job_{status}")
