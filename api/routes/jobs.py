"""Jobs: create or plan, list, look at, cancel, pause, resume, retry, delete."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel
from sqlalchemy import Row, insert, select
from sqlalchemy.orm import Session

from api.auth import TenantId
from api.deletion import delete_ended_job
from api.dependencies import Resources, ResourcesDep, Transaction, after_commit, owned, owned_row, owned_rows
from api.idempotency import Idempotent, created
from api.pagination import PageQuery, page_of
from api.schemas import Answers, JobView, Listing, Plan, errors
from difffit_core.base_models import get_base_model
from difffit_core.errors import DatasetError, SpecError
from difffit_core.spec import DatasetSummary, JobSpec, TrainingSpec, resolve
from jobstore import events, queue
from jobstore.database import Prepared, given
from jobstore.dispatch import wake
from jobstore.errors import ConflictError
from jobstore.ids import new_id
from jobstore.lifecycle import Action, JobStatus, UserAction, request
from jobstore.quotas import check_queue
from jobstore.tables import Adapter, Dataset, Job

router = APIRouter(prefix="/jobs", tags=["jobs"])

PLANNED: Answers = {200: {"model": Plan, "description": "The plan"}}
# What every job asks for: its dataset, which nobody deletes until the commit, its row, and that row with what it trained.
DATASET = Prepared(
    owned_rows(Dataset, given("tenant"))
    .with_only_columns(Dataset.id, Dataset.status, Dataset.error, Dataset.sha256, Dataset.classes, Dataset.holds)
    .where(Dataset.id == given("id"))
    .with_for_update(read=True)
)
NEW_JOB = Prepared(
    insert(Job).returning(*Job.__table__.columns),
    *("id", "tenant_id", "dataset_id", "init_adapter_id", "name", "priority", "max_duration", "status", "base_model"),
    *("spec", "training_spec", "total_steps", "attempt", "seconds_used", "step", "losses"),
)
ADAPTER = select(Adapter.id).where(Adapter.job_id == Job.id, Adapter.deleted_at.is_(None)).scalar_subquery()
JOB = Prepared(owned_rows(Job, given("tenant")).where(Job.id == given("id")).add_columns(ADAPTER.label("adapter")))
DryRun = Annotated[bool, Query(description="Answer the plan with status 200 and start nothing")]


@router.post(
    "",
    status_code=202,
    response_model=JobView | Plan,
    dependencies=[Idempotent],
    responses=PLANNED | errors(400, 404, 409, 413, 415, 429),
)
def create_job(spec: JobSpec, tenant: TenantId, resources: ResourcesDep, dry_run: DryRun = False) -> Response:
    """Queue a fine-tuning job. Fields that are left out or "auto" are chosen for the base model and the dataset."""
    # The transaction begins and ends within this one turn of a thread, and what was built here is not validated once more.
    with resources.transaction() as session:
        training_spec = _resolve(session, spec, tenant, resources)
        if dry_run:
            return _json(Plan.of(training_spec))
        check_queue(session, tenant, resources.settings)
        view = _queue(session, spec, training_spec, tenant)
        created(session, f"/jobs/{view.id}")
    return _json(view, 202, {"location": f"/jobs/{view.id}"})


def _resolve(session: Session, spec: JobSpec, tenant: str, resources: Resources) -> TrainingSpec:
    """The job as it will be trained; the dataset and the initial adapter stay until the commit."""
    base = get_base_model(resources.catalog, spec.base_model)
    dataset = owned_row(session, DATASET, Dataset, spec.dataset, tenant, param="dataset")
    training_spec = resolve(spec, base, _summary(dataset))
    if spec.init_adapter is not None:
        adapter = owned(session, Adapter, spec.init_adapter, tenant, param="init_adapter", keep=True)
        _check_initial(session, adapter, training_spec)
    return training_spec


def _summary(dataset: Row[Any]) -> DatasetSummary:
    """What training needs of a dataset; raises where it is not ready."""
    if dataset.status == "checking":
        raise ConflictError(
            f"The dataset is still being checked. Post the job again when GET /datasets/{dataset.id} says `ready`.",
            code="dataset_not_ready",
            param="dataset",
        )
    if dataset.status != "ready" or dataset.sha256 is None or dataset.classes is None:
        reason = dataset.error["message"] if dataset.error else "Upload it again."
        raise DatasetError(f"The dataset is {dataset.status}. {reason}", code=f"dataset_{dataset.status}", param="dataset")
    return DatasetSummary(sha256=dataset.sha256, classes=dataset.classes, holds=dataset.holds)


def _check_initial(session: Session, adapter: Adapter, spec: TrainingSpec) -> None:
    """Raises SpecError (`wrong_init_adapter`) unless the adapter's values can be those that this training begins with."""
    trained = session.get_one(Job, adapter.job_id).training_spec
    pairs = {
        "base model": (adapter.base_model, spec.base_model),
        "task": (trained["task"], spec.task.model_dump(mode="json")),
        "method": (trained["method"], spec.method.model_dump(mode="json")),
        "classes": (adapter.class_names, sorted(spec.dataset.classes) if adapter.class_names else []),
    }
    for what, (theirs, ours) in pairs.items():
        if theirs != ours:
            raise SpecError(
                f"A job can begin with an adapter of the same {what} only: {adapter.id} has {theirs}, this job {ours}.",
                code="wrong_init_adapter",
                param="init_adapter",
            )


def _queue(session: Session, spec: JobSpec, training_spec: TrainingSpec, tenant: str) -> JobView:
    job = NEW_JOB.run(
        session,
        id=new_id("job"),
        tenant_id=tenant,
        dataset_id=spec.dataset,
        init_adapter_id=spec.init_adapter,
        name=spec.name,
        priority=spec.priority,
        max_duration=spec.max_duration,
        status=JobStatus.QUEUED,
        base_model=spec.base_model,
        spec=spec.model_dump_json(),
        training_spec=training_spec.model_dump_json(),
        total_steps=training_spec.hyperparameters.steps,
        attempt=0,
        seconds_used=0.0,
        step=0,
        losses="{}",
    ).one()
    events.begin(session, job.id, "queued")
    after_commit(session, partial(wake, "train", job.id))
    return JobView.of(job, queue.positions(session, [job.id])[job.id], adapter=None)


@router.get("", responses=errors())
def list_jobs(page: PageQuery, tenant: TenantId, session: Transaction) -> Listing[JobView]:
    """Jobs, newest first."""
    rows, more = page_of(session, owned_rows(Job, tenant), Job, page)
    return Listing(data=job_views(session, rows), has_more=more)


def find_job(job_id: str, tenant: TenantId, session: Transaction) -> Job:
    return owned(session, Job, job_id, tenant)


FoundJob = Annotated[Job, Depends(find_job)]


@router.get("/{job_id}", response_model=JobView, responses=errors(404))
def get_job(job_id: str, tenant: TenantId, resources: ResourcesDep) -> Response:
    """One job with its progress and losses."""
    # Everybody who waits asks for this: one turn of a thread, and no second validation of what was just built.
    with resources.reading() as session:
        job = owned_row(session, JOB, Job, job_id, tenant)
        position = queue.positions(session, [job_id]).get(job_id) if job.status == JobStatus.QUEUED else None
    return _json(JobView.of(job, position, job.adapter))


def _json(view: BaseModel, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(view.model_dump_json(), status, headers, media_type="application/json")


@router.post("/{job_id}/cancel", responses=errors(404, 409))
def cancel_job(job: FoundJob, session: Transaction) -> JobView:
    """Cancel a waiting job at once; a running one finishes its step and writes a checkpoint first (`cancelling`)."""
    return _request(session, job, Action.CANCEL)


@router.post("/{job_id}/pause", responses=errors(404, 409))
def pause_job(job: FoundJob, session: Transaction) -> JobView:
    """Pause a waiting job at once; a running one writes a checkpoint (`pausing`) and then leaves its worker to others."""
    return _request(session, job, Action.PAUSE)


@router.post("/{job_id}/resume", responses=errors(404, 409))
def resume_job(job: FoundJob, session: Transaction) -> JobView:
    """Put a paused job back into the queue. It goes on where it stopped, and its adapter is that of an unpaused run."""
    return _request(session, job, Action.RESUME)


@router.post("/{job_id}/retry", responses=errors(404, 409))
def retry_job(job: FoundJob, session: Transaction) -> JobView:
    """Queue a failed or cancelled job once more: from its last checkpoint, with fresh attempts and a fresh time limit."""
    return _request(session, job, Action.RETRY)


@router.delete("/{job_id}", status_code=204, responses=errors(404, 409))
def delete_job(job: FoundJob, session: Transaction, resources: ResourcesDep) -> None:
    """Delete a job that has ended, with its checkpoints, samples and logs. Its adapter stays until it is deleted itself."""
    delete_ended_job(session, job, resources.store)


def _request(session: Session, job: Job, action: UserAction) -> JobView:
    if request(session, job, action) and job.status == JobStatus.QUEUED:
        after_commit(session, partial(wake, "train", job.id))
    return job_views(session, [job])[0]


def job_views(session: Session, jobs: Sequence[Job]) -> list[JobView]:
    """The jobs as the API shows them, with their adapters and places in the queue in one query each."""
    ids = [job.id for job in jobs]
    found = session.execute(select(Adapter.job_id, Adapter.id).where(Adapter.job_id.in_(ids), Adapter.deleted_at.is_(None)))
    adapters = dict(found.all())
    waiting = [job.id for job in jobs if job.status == JobStatus.QUEUED]
    positions = queue.positions(session, waiting) if waiting else {}
    return [JobView.of(job, positions.get(job.id), adapters.get(job.id)) for job in jobs]
