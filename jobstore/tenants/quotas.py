"""What a tenant may use: its own limits where the operator has set them, else those of the settings."""

import operator
import time
from dataclasses import dataclass
from functools import reduce

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import BindParameter, ColumnElement, Select, func, select
from sqlalchemy.orm import Session

from jobstore.jobs.lifecycle import WITH_WORKER, JobStatus
from jobstore.kit.database import Prepared, given
from jobstore.kit.errors import QuotaError
from jobstore.kit.settings import Settings
from jobstore.kit.tables import Adapter, Checkpoint, Dataset, Encoding, Export, Generation, Image, Job, Json, Tenant, Upload

MARGIN = 200  # jobs below the limit from which requests of one tenant take turns; more than are in flight at once
SEEN_SECONDS = 10.0
FULL_RETRY_SECONDS = 60
STORAGE_RETRY_SECONDS = 3600  # nothing frees space by itself before the next collection


class Limits(BaseModel):
    """A number for every limit."""

    model_config = ConfigDict(frozen=True)

    storage_bytes: int = Field(
        description="Of uploads, what was checked of them and their encodings, checkpoints, samples, adapters, their exports, "
        "and pictures with the conditions sent for them"
    )
    queued_jobs: int = Field(description="Jobs that wait for a worker")
    running_jobs: int = Field(description="Jobs that run at once; more of them wait in the queue")
    generate_per_minute: int = Field(description="Requests for images")


class Usage(BaseModel):
    """What a tenant uses now, in the same units."""

    storage_bytes: int
    queued_jobs: int
    running_jobs: int


def limits_of(tenant: Tenant, settings: Settings) -> Limits:
    return _limits(tenant.limits, settings)


def _limits(own: Json, settings: Settings) -> Limits:
    return Limits.model_validate({name: getattr(settings, f"tenant_{name}") for name in Limits.model_fields} | own)


def usage_of(session: Session, tenant: Tenant) -> Usage:
    queued = session.scalar(_jobs(tenant.id, Job.status == JobStatus.QUEUED)) or 0
    running = session.scalar(_jobs(tenant.id, Job.status.in_(WITH_WORKER))) or 0
    return Usage(storage_bytes=stored_bytes(session, tenant.id), queued_jobs=queued, running_jobs=running)


@dataclass
class Line:
    """A tenant's waiting jobs as one transaction counts them, with those that it adds."""

    waiting: int
    limit: int
    free_bytes: int

    def join(self) -> None:
        """Count one job more; raises QuotaError: `storage_full` where it can store nothing, `queue_full` without a place."""
        if self.free_bytes <= 0:
            raise storage_full(self.free_bytes)
        if self.waiting >= self.limit:
            raise QuotaError(
                f"{self.waiting} jobs wait for a worker, and your tenant may have {self.limit} there. Post the job again "
                "when some have begun.",
                code="queue_full",
                param="queued_jobs",
                retry_after=FULL_RETRY_SECONDS,
            )
        self.waiting += 1


class Fullness:
    """What tenants store, as of some seconds ago: the sum grows with all that they ever made, and a job stores nothing yet."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, int]] = {}  # when, by this process's clock, and the bytes

    def free_bytes(self, session: Session, tenant_id: str, limit: int) -> int:
        """What is left of the limit. That nothing is left is never an answer of some seconds ago."""
        seen, stored = self._seen.get(tenant_id, (-SEEN_SECONDS, limit))
        if stored >= limit or time.monotonic() > seen + SEEN_SECONDS:
            stored = stored_bytes(session, tenant_id)
            self._seen[tenant_id] = time.monotonic(), stored
        return limit - stored


def line_of(session: Session, tenant_id: str, settings: Settings, fullness: Fullness) -> Line:
    """The tenant's line. Near the limit its row is locked until the commit: what others add at the same time counts."""
    own, count = WAITING.run(session, tenant=tenant_id).one()
    limits = _limits(own, settings)
    if count >= limits.queued_jobs - MARGIN:
        session.get_one(Tenant, tenant_id, with_for_update=True)
        count = WAITING.run(session, tenant=tenant_id).one()[1]
    return Line(count, limits.queued_jobs, fullness.free_bytes(session, tenant_id, limits.storage_bytes))


def check_storage(session: Session, tenant_id: str, settings: Settings, wanted: int) -> int:
    """The bytes that are free beside the `wanted`; raises QuotaError (`storage_full`) where those do not fit.

    The tenant's row is locked until the commit, so that what is written now counts for whoever asks next.
    """
    tenant = session.get_one(Tenant, tenant_id, with_for_update=True)
    limit, used = limits_of(tenant, settings).storage_bytes, stored_bytes(session, tenant_id)
    if used + wanted > limit:
        raise storage_full(limit - used)
    return limit - used - wanted


def storage_full(free: int) -> QuotaError:
    return QuotaError(
        f"This does not fit: your tenant may store {max(0, free)} bytes more (see GET /usage). Delete datasets, jobs, "
        "adapters or generations, or ask the operator for more.",
        code="storage_full",
        param="storage_bytes",
        retry_after=STORAGE_RETRY_SECONDS,
    )


def stored_bytes(session: Session, tenant_id: str) -> int:
    """What the tenant can free again by deleting datasets, jobs, adapters and generations."""
    datasets = select(func.sum(Dataset.upload_bytes + Dataset.content_bytes)).where(
        Dataset.tenant_id == tenant_id, Dataset.status != "deleted"
    )
    uploads = select(func.sum(Upload.length)).where(Upload.tenant_id == tenant_id)
    checkpoints = select(func.sum(Checkpoint.bytes)).join(Job).where(Job.tenant_id == tenant_id)
    pictures = select(func.sum(Image.bytes)).where(Image.tenant_id == tenant_id)  # samples of jobs as well
    with_condition = Generation.tenant_id == tenant_id, Generation.condition_key.is_not(None)
    conditions = select(func.sum(Generation.condition_bytes)).where(*with_condition)
    encodings = select(func.sum(Encoding.bytes)).where(Encoding.tenant_id == tenant_id)
    adapters = select(func.sum(Adapter.bytes)).where(Adapter.tenant_id == tenant_id, Adapter.deleted_at.is_(None))
    exports = select(func.sum(Export.bytes)).join(Adapter).where(Adapter.tenant_id == tenant_id)
    counted = (datasets, uploads, encodings, checkpoints, pictures, conditions, adapters, exports)
    total = reduce(operator.add, (func.coalesce(query.scalar_subquery(), 0) for query in counted))
    return int(session.scalars(select(total)).one())


def _jobs(tenant_id: str | BindParameter[str], which: ColumnElement[bool]) -> Select[int]:
    return select(func.count()).where(Job.tenant_id == tenant_id, which)


_queued = _jobs(given("tenant"), Job.status == JobStatus.QUEUED).scalar_subquery()
WAITING = Prepared(select(Tenant.limits, _queued).where(Tenant.id == given("tenant")))
