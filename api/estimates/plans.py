"""What a plan says beside the resolved job: its memory as a worker computes it, its time as the tenant's last jobs took it."""

import hashlib
import statistics
import time
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.jobs.schemas import Duration, Plan
from api.kit.dependencies import Resources, after_commit, owned_rows
from api.kit.notifications import wait
from api.kit.prefer import RECHECK_SECONDS
from difffit_core.planning.estimate import Estimate, cache_key
from difffit_core.spec.catalog import BaseModelEntry
from difffit_core.spec.job import TrainingSpec
from jobstore.estimates import service as estimates
from jobstore.kit import tables
from jobstore.kit.dispatch import wake
from jobstore.kit.tables import Job, JobEvent

WAIT = 20  # seconds, unless a request says otherwise: an estimate takes a few
ENDED = {"succeeded", "failed"}
# What a step's time depends on, beside the device.
ALIKE = ("batch_size", "micro_batch_size", "gradient_checkpointing", "base_precision", "resolution", "max_tokens")
LOOKED_AT, MEASURED = 50, 5  # of the tenant's newest jobs that are alike; and of those, how many are averaged
TOO_MANY = f"{estimates.MOST_WAITING} plans of your tenant wait for a worker, and no more may. Ask again in a minute."
NOBODY = "No worker has computed it yet. Ask again; it takes seconds where a worker for the queue `generate` runs."


@dataclass(frozen=True)
class Draft:
    """A plan whose estimate may still be computed."""

    spec: TrainingSpec
    tenant: str
    estimate_id: str | None  # none where too many of the tenant wait


def draft(session: Session, jobs: list[tuple[TrainingSpec, str]], catalog: dict[str, BaseModelEntry]) -> list[Draft]:
    """The plans of (spec, tenant); a worker is woken for what nobody has computed."""
    asked = [(_key(spec, catalog[spec.base_model]), tenant) for spec, tenant in jobs]
    ids: dict[tuple[str, str], str | None] = {}
    for (key, tenant), (spec, _) in sorted(zip(asked, jobs, strict=True), key=itemgetter(0)):
        if (key, tenant) not in ids:
            row, fresh = estimates.find_or_queue(session, tenant, key, cache_key(spec).model_dump(mode="json"))
            ids[key, tenant] = None if row is None else row.id
            if row is not None and fresh:
                after_commit(session, partial(wake, "estimate", row.id))
    return [Draft(spec, tenant, ids[which]) for which, (spec, tenant) in zip(asked, jobs, strict=True)]


def _key(spec: TrainingSpec, base: BaseModelEntry) -> str:
    return hashlib.sha256(f"{cache_key(spec).model_dump_json()} {base.configs_state()}".encode()).hexdigest()


async def finish(resources: Resources, draft: Draft, seconds: float) -> Plan:
    """The plan as soon as its estimate is there, or after so many seconds without."""
    deadline = time.monotonic() + seconds
    if draft.estimate_id is None:
        return (await resources.turns.run(_look, resources, draft))[0]
    with resources.notifications.subscribe(("estimate", draft.estimate_id)) as changed:
        while True:
            changed.clear()
            plan, ended = await resources.turns.run(_look, resources, draft)
            left = deadline - time.monotonic()
            if ended or left <= 0:
                return plan
            await wait(changed, min(left, RECHECK_SECONDS))


def _look(resources: Resources, draft: Draft) -> tuple[Plan, bool]:
    """The plan as it is now, and whether more is to come."""
    with resources.reading() as session:
        row = None if draft.estimate_id is None else session.get(tables.Estimate, draft.estimate_id)
        estimate = None if row is None or row.result is None else Estimate.model_validate(row.result)
        plan = Plan.of(draft.spec)
        plan.estimate = estimate
        if estimate is None:
            plan.no_estimate = TOO_MANY if draft.estimate_id is None else NOBODY
            if row is not None and row.error is not None:
                plan.no_estimate = row.error["message"]
        plan.duration, plan.no_duration = _duration(session, draft, None if estimate is None else estimate.device)
    return plan, row is None or row.status in ENDED


def _duration(session: Session, draft: Draft, device: str | None) -> tuple[Duration | None, str | None]:
    """How long the job will take, or why that is not known. Without a `device`: on that of the last job like it."""
    rows = session.execute(_jobs_alike(draft)).all()
    device = device or next((row.device for row in rows), None)
    measured = [row for row in rows if row.device == device][:MEASURED]
    if not measured:
        where = f" on {device}" if device else ""
        return None, f"None of your jobs with these settings (base, task, method, sizes) has trained{where} yet."
    h = draft.spec.hyperparameters
    seconds = statistics.median(h.batch_size / row.samples_per_second for row in measured)
    duration = Duration(
        seconds_per_step=round(seconds, 4),
        total_seconds=round(seconds * h.steps, 1),
        device=str(device),
        jobs=len(measured),
        measured_at=measured[0].started_at,
    )
    return duration, None


def _jobs_alike(draft: Draft) -> Any:
    """The tenant's newest jobs whose steps should take as long, and the device that each was last started on."""
    spec = draft.spec
    alike = {
        "task": {"type": spec.task.type},
        "method": {"type": spec.method.type},
        "hyperparameters": {name: getattr(spec.hyperparameters, name) for name in ALIKE},
    }
    started = select(JobEvent.data["device_name"].astext).where(JobEvent.job_id == Job.id, JobEvent.type == "started")
    device = started.order_by(JobEvent.sequence.desc()).limit(1).scalar_subquery()
    jobs = (
        owned_rows(Job, draft.tenant)
        .with_only_columns(Job.samples_per_second, Job.started_at, device.label("device"))
        .where(Job.base_model == spec.base_model, Job.samples_per_second > 0, Job.training_spec.contains(alike))
        .order_by(Job.id.desc())
        .limit(LOOKED_AT)
        .subquery()
    )
    return select(jobs).where(jobs.c.device.is_not(None))
