"""Jobs: create or plan, list, look at, cancel, pause, resume, retry, delete."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response
from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.datasets.summary import dataset_summary
from api.estimates import plans
from api.jobs.dependencies import FoundJob
from api.jobs.schemas import JobView, Plan
from api.kit.answers import Answers, Listing, errors
from api.kit.auth import TenantId
from api.kit.deletion import delete_ended_job
from api.kit.dependencies import (
    Resources,
    ResourcesDep,
    Transaction,
    after_commit,
    asked_rows,
    each_asked,
    find_asked,
    not_found,
    owned,
    owned_rows,
)
from api.kit.idempotency import Idempotent, created_by, current_claim
from api.kit.pagination import PageQuery, page_of
from api.kit.prefer import wait_seconds
from difffit_core.errors import DiffFitError, SpecError
from difffit_core.evaluation.metrics import check_configured
from difffit_core.spec.catalog import get_base_model
from difffit_core.spec.job import JobSpec, TrainingSpec
from difffit_core.spec.resolve import resolve
from difffit_core.tasks.config import check_captioner
from jobstore.jobs import events, queue
from jobstore.jobs.lifecycle import Action, JobStatus, UserAction, request
from jobstore.kit.database import Prepared, insert_rows
from jobstore.kit.dispatch import wake
from jobstore.kit.idempotency import Claim
from jobstore.kit.ids import new_id
from jobstore.kit.tables import Adapter, Dataset, Job
from jobstore.tenants.quotas import line_of

router = APIRouter(prefix="/jobs", tags=["jobs"])

PLANNED: Answers = {200: {"model": Plan, "description": "The plan"}}
# What jobs ask for: their datasets, which nobody deletes until the commit, their rows, and those with what they trained.
DATASETS = each_asked(
    asked_rows(Dataset)
    .with_only_columns(
        *(
            Dataset.id,
            Dataset.tenant_id,
            Dataset.status,
            Dataset.error,
            Dataset.sha256,
            Dataset.classes,
            Dataset.holds,
            Dataset.frame,
        )
    )
    .with_for_update(read=True)
)
NEW_JOBS = (
    insert_rows(
        Job,
        "jobs",
        *("id", "tenant_id", "dataset_id", "init_adapter_id", "name", "priority", "max_duration", "status", "base_model"),
        *("spec", "training_spec", "total_steps", "attempt", "seconds_used", "step", "losses"),
    )
    .returning(*Job.__table__.columns)
    .cte("made")
)
QUEUED = Prepared(select(*NEW_JOBS.c).add_cte(events.FIRST))
ADAPTER = select(Adapter.id).where(Adapter.job_id == Job.id, Adapter.deleted_at.is_(None)).scalar_subquery()
JOBS = each_asked(asked_rows(Job).add_columns(ADAPTER.label("adapter")))
DryRun = Annotated[bool, Query(description="Answer the plan with status 200 and start nothing")]


@router.post(
    "",
    status_code=202,
    response_model=JobView | Plan,
    dependencies=[Idempotent],
    responses=PLANNED | errors(400, 404, 409, 413, 415, 429),
)
async def create_job(
    spec: JobSpec,
    tenant: TenantId,
    resources: ResourcesDep,
    dry_run: DryRun = False,
    prefer: Annotated[
        str,
        Header(description='Of a dry run, and of `overlong: "fail"`: `wait=N` seconds at most for the estimate; absent: 20'),
    ] = "",
) -> Response:
    """Queue a fine-tuning job. Fields that are left out or "auto" are chosen for the base model and the dataset."""
    # What was built here is not validated once more.
    fails = spec.hyperparameters.overlong == "fail"  # where rows are too long: a worker measures them, as for a plan
    if dry_run or fails:
        draft = await resources.together(_plan, NewJob(spec, tenant))
        plan = await plans.finish(resources, draft, wait_seconds(prefer, plans.WAIT))
        if dry_run:
            return _json(plan)
        _check_rows(draft.spec, plan)
    view = await resources.together(_create, NewJob(spec, tenant, current_claim()))
    return _json(view, 202, {"location": f"/jobs/{view.id}"})


def _check_rows(spec: TrainingSpec, plan: Plan) -> None:
    """Raise DatasetError (`row_too_long`); where no worker has measured the rows in time, the trainer does."""
    limit, overlong = spec.hyperparameters.max_tokens, spec.hyperparameters.overlong
    if plan.estimate is not None and plan.estimate.rows is not None and limit is not None and overlong is not None:
        plan.estimate.rows.check(limit, overlong)


@dataclass(frozen=True)
class NewJob:
    """One request for a job."""

    spec: JobSpec
    tenant: str
    claim: Claim | None = None
    id: str = field(default_factory=partial(new_id, "job"))

    @property
    def dataset(self) -> tuple[str, str]:
        return self.spec.dataset, self.tenant


def _plan(resources: Resources, jobs: list[NewJob]) -> list[plans.Draft | DiffFitError]:
    with resources.transaction() as session:
        specs = _resolve(session, jobs, resources)
        possible = [(spec, job.tenant) for job, spec in zip(jobs, specs, strict=True) if isinstance(spec, TrainingSpec)]
        drafts = iter(plans.draft(session, possible, resources.catalog))
    return [spec if isinstance(spec, DiffFitError) else next(drafts) for spec in specs]


def _create(resources: Resources, jobs: list[NewJob]) -> list[JobView | DiffFitError]:
    """Queue those of the jobs that can be trained and have a place in their tenants' queues."""
    with resources.transaction() as session:
        specs = _resolve(session, jobs, resources)
        # In order, so that two transactions that lock tenants do not wait for each other.
        tenants = sorted({job.tenant for job in jobs})
        lines = {tenant: line_of(session, tenant, resources.settings, resources.fullness) for tenant in tenants}
        refused, rows = dict[str, DiffFitError](), list[dict[str, Any]]()
        for job, spec in zip(jobs, specs, strict=True):
            try:
                if isinstance(spec, DiffFitError):
                    raise spec
                lines[job.tenant].join()
                created_by(session, job.claim, f"/jobs/{job.id}")
                rows.append(_row(job, spec))
            except DiffFitError as error:
                refused[job.id] = error
        views = _queue(session, rows) if rows else {}
    return [refused.get(job.id) or views[job.id] for job in jobs]


def _resolve(session: Session, jobs: list[NewJob], resources: Resources) -> list[TrainingSpec | DiffFitError]:
    """Each job as it will be trained, or why it cannot be; datasets and initial adapters stay until the commit."""
    datasets = find_asked(session, DATASETS, {job.dataset for job in jobs})

    def resolved(job: NewJob) -> TrainingSpec | DiffFitError:
        try:
            base = get_base_model(resources.catalog, job.spec.base_model)
            if job.dataset not in datasets:
                raise not_found(Dataset, job.spec.dataset, "dataset")
            training_spec = resolve(job.spec, base, dataset_summary(datasets[job.dataset]))
            metrics = training_spec.hyperparameters.evaluation_metrics
            check_configured(metrics, resources.settings.feature_weights, "hyperparameters.evaluation_metrics")
            check_captioner(training_spec.task, resources.settings.captioner)
            if job.spec.init_adapter is not None:
                adapter = owned(session, Adapter, job.spec.init_adapter, job.tenant, param="init_adapter", keep=True)
                _check_initial(session, adapter, training_spec)
        except DiffFitError as error:
            return error
        return training_spec

    return [resolved(job) for job in jobs]


def _check_initial(session: Session, adapter: Adapter, spec: TrainingSpec) -> None:
    """Raises SpecError (`wrong_init_adapter`) unless the adapter's values can be those that this training begins with."""
    trained = session.get_one(Job, adapter.job_id).plan
    pairs = {
        "base model": (adapter.base_model, spec.base_model),
        "task": (trained.task.model_dump(mode="json"), spec.task.model_dump(mode="json")),
        "method": (trained.method.model_dump(mode="json"), spec.method.model_dump(mode="json")),
        "classes": (adapter.class_names, sorted(spec.dataset.classes) if adapter.class_names else []),
    }
    for what, (theirs, ours) in pairs.items():
        if theirs != ours:
            raise SpecError(
                f"A job can begin with an adapter of the same {what} only: {adapter.id} has {theirs}, this job {ours}.",
                code="wrong_init_adapter",
                param="init_adapter",
            )


def _row(job: NewJob, training_spec: TrainingSpec) -> dict[str, Any]:
    return {
        "id": job.id,
        "tenant_id": job.tenant,
        "dataset_id": job.spec.dataset,
        "init_adapter_id": job.spec.init_adapter,
        "name": job.spec.name,
        "priority": job.spec.priority,
        "max_duration": job.spec.max_duration,
        "status": JobStatus.QUEUED,
        "base_model": job.spec.base_model,
        "spec": job.spec.model_dump(mode="json"),
        "training_spec": training_spec.model_dump(mode="json"),
        "total_steps": training_spec.hyperparameters.steps,
        "attempt": 0,
        "seconds_used": 0.0,
        "step": 0,
        "losses": {},
    }


def _queue(session: Session, rows: list[dict[str, Any]]) -> dict[str, JobView]:
    ids = [row["id"] for row in rows]
    jobs = QUEUED.run(session, jobs=json.dumps(rows), first_events=events.first_events(ids, "queued"))
    after_commit(session, partial(wake, "train", *ids))
    places = queue.positions(session, ids, newest=True)
    return {job.id: JobView.of(job, places[job.id], adapter=None) for job in jobs}


@router.get("", responses=errors(404))
def list_jobs(page: PageQuery, tenant: TenantId, session: Transaction) -> Listing[JobView]:
    """Jobs, newest first."""
    rows, more = page_of(session, owned_rows(Job, tenant), Job, page, known=select(Job).where(Job.tenant_id == tenant))
    return Listing(data=job_views(session, rows), has_more=more)


@router.get("/{job_id}", response_model=JobView, responses=errors(404))
async def get_job(job_id: str, tenant: TenantId, resources: ResourcesDep) -> Response:
    """One job with its progress and losses."""
    return _json(await resources.together(_look, (job_id, tenant)))


def _look(resources: Resources, asked: list[tuple[str, str]]) -> list[JobView | DiffFitError]:
    """The jobs of these ids and tenants."""
    with resources.reading() as session:
        jobs = find_asked(session, JOBS, set(asked))
        waiting = [job.id for job in jobs.values() if job.status == JobStatus.QUEUED]
        places = queue.positions(session, waiting) if waiting else {}

    def view(key: tuple[str, str]) -> JobView | DiffFitError:
        job = jobs.get(key)
        return not_found(Job, key[0], None) if job is None else JobView.of(job, places.get(job.id), job.adapter)

    return [view(key) for key in asked]


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


@router.post("/{job_id}/resume", responses=errors(404, 409, 429))
def resume_job(job: FoundJob, session: Transaction, resources: ResourcesDep) -> JobView:
    """Put a paused job back into the queue. It goes on where it stopped, and its adapter is that of an unpaused run."""
    return _request_place(session, job, Action.RESUME, resources)


@router.post("/{job_id}/retry", responses=errors(404, 409, 429))
def retry_job(job: FoundJob, session: Transaction, resources: ResourcesDep) -> JobView:
    """Queue a failed or cancelled job once more: from its last checkpoint, with fresh attempts and a fresh time limit."""
    return _request_place(session, job, Action.RETRY, resources)


@router.delete("/{job_id}", status_code=204, responses=errors(404, 409))
def delete_job(job: FoundJob, session: Transaction, resources: ResourcesDep) -> None:
    """Delete a job that has ended, with its checkpoints, samples and logs. Its adapter stays until it is deleted itself."""
    delete_ended_job(session, job, resources.store)


def _request(session: Session, job: Job, action: UserAction) -> JobView:
    request(session, job, action)
    return job_views(session, [job])[0]


def _request_place(session: Session, job: Job, action: UserAction, resources: Resources) -> JobView:
    """The same for what puts the job into its tenant's queue, where there has to be a place for it."""
    line = line_of(session, job.tenant_id, resources.settings, resources.fullness)
    if request(session, job, action):
        line.join()
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
