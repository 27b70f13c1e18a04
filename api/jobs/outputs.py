"""What a job leaves behind while it runs and when it ends: events, metrics, samples, checkpoints, the adapter."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.adapters.downloads import DOWNLOADS, Format, adapter_answer
from api.jobs.dependencies import FoundJob
from api.jobs.schemas import CheckpointView, EventView, Metric, Metrics, SampleView
from api.jobs.streams import events_after, stream_events
from api.kit.answers import Answers, Listing, errors, file_answer, long_answer
from api.kit.auth import TenantId, WatchedKey
from api.kit.dependencies import ResourcesDep, Transaction, owned_rows
from api.kit.downloads import FilesAnswer
from api.kit.pagination import Limit, PageQuery, cut, page_of
from jobstore.jobs.lifecycle import TERMINAL
from jobstore.kit.errors import ConflictError, NotFoundError
from jobstore.kit.objects import ObjectStore, job_logs_prefix
from jobstore.kit.tables import Adapter, Checkpoint, Image, Job, JobEvent

router = APIRouter(prefix="/jobs/{job_id}", tags=["jobs"])

EVENT_STREAM = "text/event-stream"
ENDED: Answers = {204: {"description": "Of a stream: the job has ended, and nothing follows"}}


class EventPage(BaseModel):
    model_config = ConfigDict(extra="forbid")

    after: str | None = Field(None, pattern=r"^(evt_[0-9a-z]+|[0-9]{1,18})$", description="An event's id or its sequence")
    limit: Limit = 20


@router.get(
    "/events",
    response_model=Listing[EventView],
    responses=file_answer(EVENT_STREAM, "Oldest first") | ENDED | errors(404),
)
def list_events(
    job: FoundJob,
    page: Annotated[EventPage, Query()],
    session: Transaction,
    resources: ResourcesDep,
    key: WatchedKey,
    accept: Annotated[str, Header()] = "",
    last_event_id: Annotated[int | None, Header(ge=0, lt=2**53)] = None,
) -> Listing[EventView] | Response:
    """The events as a list, or with `Accept: text/event-stream` as a stream that ends with the job or the key.

    A stream goes on after `Last-Event-ID`, which is the sequence of the last event seen. Where that is the last of a job that
    has ended, the answer is 204.
    """
    sequence = _sequence(session, job, page.after if last_event_id is None else str(last_event_id))
    if EVENT_STREAM in accept:
        if job.status in TERMINAL and session.scalar(events_after(job.id, sequence).limit(1)) is None:
            return Response(status_code=204)  # by which an EventSource knows not to connect again
        stream = stream_events(resources, key, job.id, sequence)
        # "no" keeps nginx from holding events back until its buffer is full.
        return StreamingResponse(
            stream, media_type=EVENT_STREAM, headers={"cache-control": "no-cache", "x-accel-buffering": "no"}
        )
    rows, more = cut(list(session.scalars(events_after(job.id, sequence).limit(page.limit + 1))), page.limit)
    return Listing(data=[EventView.of(row) for row in rows], has_more=more)


def _sequence(session: Session, job: Job, after: str | None) -> int:
    if after is None or after == "0":
        return 0
    which = JobEvent.sequence == int(after) if after.isdecimal() else JobEvent.id == after
    found = session.scalar(select(JobEvent.sequence).where(JobEvent.job_id == job.id, which))
    if found is None:
        raise NotFoundError(f"The job has no event {after[:80]!r}.", code="event_not_found", param="after")
    return found


@router.get("/metrics", response_model=Metrics, responses=errors(404))
def list_metrics(job: FoundJob, session: Transaction) -> Response:
    """Every loss and evaluation, in the order they were measured; without what was done again from an earlier checkpoint."""
    measured = (
        select(JobEvent.type, JobEvent.data)
        .where(JobEvent.job_id == job.id, JobEvent.type.in_(("started", "progress", "validation", "evaluation")))
        .order_by(JobEvent.sequence)
    )
    metrics: list[Metric] = []
    for kind, data in session.execute(measured):
        if kind == "started":
            resumed_from = data.get("resumed_from")
            metrics = [] if resumed_from is None else [metric for metric in metrics if metric.step <= resumed_from]
        elif kind == "progress":
            metrics.append(Metric(step=data["step"], train_loss=data["train_loss"]))
        elif kind == "evaluation":
            metrics.append(Metric(step=data["step"], figures=data["figures"]))
        else:
            metrics.append(Metric(step=data["step"], validation_loss=data["loss"], base=data.get("base", False)))
    return long_answer(metrics, exclude_none=True)


@router.get("/samples", responses=errors(404))
def list_samples(job: FoundJob, page: PageQuery, tenant: TenantId, session: Transaction) -> Listing[SampleView]:
    """What the job made while it trained, newest first: sample grids, or the texts of a language model."""
    rows, more = page_of(session, owned_rows(Image, tenant).where(Image.job_id == job.id), Image, page)
    return Listing(data=[SampleView.of(row) for row in rows], has_more=more)


@router.get("/checkpoints", responses=errors(404))
def list_checkpoints(job: FoundJob, page: PageQuery, session: Transaction) -> Listing[CheckpointView]:
    """The training states that are kept, newest first."""
    rows, more = page_of(session, select(Checkpoint).where(Checkpoint.job_id == job.id), Checkpoint, page)
    views = [CheckpointView(id=row.id, step=row.step, bytes=row.bytes, created_at=row.created_at) for row in rows]
    return Listing(data=views, has_more=more)


@router.get("/logs", response_class=Response, responses=file_answer("text/plain", "Of all attempts") | errors(404))
def get_logs(job: FoundJob, resources: ResourcesDep) -> Response:
    """What the job's trainers printed; it is there once an attempt has ended."""
    return FilesAnswer(
        resources.store, partial(resources.in_store, _log_keys, resources.store, job.id), "text/plain; charset=utf-8"
    )


def _log_keys(store: ObjectStore, job_id: str) -> list[str]:
    keys = sorted(file.key for file in store.list(job_logs_prefix(job_id)))
    if not keys:
        raise NotFoundError("The job has no log yet: it is kept when an attempt ends.", code="no_logs")
    return keys


@router.get("/adapter", response_class=Response, responses=DOWNLOADS | errors(404, 409))
def download_job_adapter(
    job: FoundJob, tenant: TenantId, session: Transaction, resources: ResourcesDep, file_format: Format = "difffit"
) -> Response:
    """The adapter of a finished job, as `GET /adapters/{adapter_id}/download` gives it."""
    adapter = session.scalar(owned_rows(Adapter, tenant).where(Adapter.job_id == job.id))
    if adapter is not None:
        return adapter_answer(session, adapter, file_format, resources.store)
    if job.status not in TERMINAL:
        raise ConflictError(f"The job is {job.status}; its adapter is there when it has succeeded.", code="job_not_finished")
    raise NotFoundError(f"The job {job.status} and left no adapter.", code="no_adapter")
