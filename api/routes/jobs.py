"""Jobs: create or plan, list, look at, cancel, pause, resume, retry, delete."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from api.auth import TenantId
from api.deletion import delete_ended_job
from api.dependencies import Resources, ResourcesDep, Transaction, after_commit, owned, owned_rows
from api.idempotency import Idempotent, created
from api.pagination import PageQuery, page_of
from api.schemas import Answers, JobView, Listing, Plan, errors
from difffit_core.base_models import get_base_model
from difffit_core.errors import DatasetError, SpecError
from difffit_core.spec import DatasetSummary, JobSpec, TrainingSpec, resolve
from jobstore import events, queue
from jobstore.dispatch import wake
from jobstore.errors import ConflictError
from jobstore.ids import new_id
from jobstore.lifecycle import Action, JobStatus, UserAction, request
from jobstore.quotas import check_queue
from jobstore.tables import Adapter, Dataset, Job

router = APIRouter(prefix="/jobs", tags=["jobs"])

PLANNED: Answers = {200: {"model": Plan, "description": "The plan"}}
DryRun = Annotated[bool, Query(description="Answer the plan with status 200 and start nothing")]


@router.post("", status_code=202, dependencies=[Idempotent], responses=PLANNED | errors(400, 404, 409, 413, 415, 429))
def create_job(
    spec: JobSpec, tenant: TenantId, session: Transaction, resources: ResourcesDep, response: Response, dry_run: DryRun = False
) -> JobView | Plan:
    """Queue a fine-tuning job. Fields that are left out or "auto" are chosen for the base model and the dataset."""
    base = get_base_model(resources.catalog, spec.base_model)
    dataset = owned(session, Dataset, spec.dataset, tenant, param="dataset", keep=True)
    training_spec = resolve(spec, base, _summary(dataset))
    if spec.init_adapter is not None:
        _check_initial(
            session, owned(session, Adapter, spec.init_adapter, tenant, param="init_adapter", keep=True), training_spec
        )
    if dry_run:
        response.status_code = 200
        return Plan.of(training_spec)
    check_queue(session, tenant, resources.settings)
    job = _queue(session, spec, training_spec, tenant)
    response.headers["location"] = f"/jobs/{job.id}"
    created(session, response.headers["location"])
    return job_views(session, [job])[0]


def _summary(dataset: Dataset) -> DatasetSummary:
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
    return DatasetSummary(sha256=dataset.sha256, classes=dataset.classes)


def _check_initial(session: Session, adapter: Adapter, spec: TrainingSpec) -> None:
    """Raises SpecError (`wrong_init_adapter`) unless the adapter's values can be those that this training begins with."""
    trained = session.get_one(Job, adapter.job_id).training_spec
    pairs = {
        "base model": (adapter.base_model, spec.base_model),
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


def _queue(session: Session, spec: JobSpec, training_spec: TrainingSpec, tenant: str) -> Job:
    job = Job(
        id=new_id("job"),
        tenant_id=tenant,
        dataset_id=spec.dataset,
        init_adapter_id=spec.init_adapter,
        name=spec.name,
        priority=spec.priority,
        max_duration=spec.max_duration,
        status=JobStatus.QUEUED,
        base_model=spec.base_model,
        spec=spec.model_dump(mode="json"),
        training_spec=training_spec.model_dump(mode="json"),
        total_steps=training_spec.hyperparameters.steps,
    )
    session.add(job)
    session.flush()
    events.append(session, job.id, "queued", {})
    after_commit(session, partial(wake, "train", job.id))
    return job


@router.get("", responses=errors())
def list_jobs(page: PageQuery, tenant: TenantId, session: Transaction) -> Listing[JobView]:
    """Jobs, newest first."""
    rows, more = page_of(session, owned_rows(Job, tenant), Job, page)
    return Listing(data=job_views(session, rows), has_more=more)


def find_job(job_id: str, tenant: TenantId, session: Transaction) -> Job:
    return owned(session, Job, job_id, tenant)


FoundJob = Annotated[Job, Depends(find_job)]


@router.get("/{job_id}", response_model=JobView, responses=errors(404))
async def get_job(job_id: str, tenant: TenantId, resources: ResourcesDep) -> Response:
    """One job with its progress and losses."""
    # Everybody who waits asks for this: one turn of a thread, and no second validation of what was just built.
    return Response(await run_in_threadpool(_job_json, resources, job_id, tenant), media_type="application/json")


def _job_json(resources: Resources, job_id: str, tenant: str) -> str:
    with resources.reading() as session:
        return job_views(session, [owned(session, Job, job_id, tenant)])[0].model_dump_json()


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
