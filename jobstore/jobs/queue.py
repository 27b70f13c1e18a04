"""Which waiting job comes next. Tenants take turns; among its own jobs a tenant's priorities decide, then age.

The next job is of the tenant with the fewest jobs at work, of those of the one that was served longest ago. So a hundred jobs
of one tenant keep another's only job waiting for one turn, and no priority that a tenant gives moves another's jobs.
"""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Select, String, any_, func, select, true, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session, aliased
from sqlalchemy.sql.selectable import LateralFromClause

from jobstore.jobs.lifecycle import WITH_WORKER, JobStatus
from jobstore.kit import leases
from jobstore.kit.database import Prepared, given
from jobstore.kit.tables import Job, Tenant

NO_LIMIT = 2**31
IN_ORDER = (Job.priority.desc(), Job.id)  # of one tenant's jobs; the index ix_jobs_waiting holds them so
FROM_BEHIND = (Job.priority, Job.id.desc())
WANTED = any_(given("ids", ARRAY(String)))


def claim_next(session: Session, lease_seconds: float, most_running: int = NO_LIMIT) -> tuple[str, UUID] | None:
    """Take the next waiting job: its id and the lease token, or None where no job waits.

    A tenant with as many jobs at work as its own limit says, or else `most_running`, has to wait. Two workers that look at
    once choose the same job; the second one waits for the first one's commit and looks again.
    """
    while (found := session.execute(_next(most_running)).first()) is not None:
        token = leases.claim(session, Job, found.id, lease_seconds)
        if token is not None:
            served = update(Tenant).where(Tenant.id == found.tenant_id).values(served_at=func.clock_timestamp())
            session.execute(served)
            return found.id, token
    return None


def _next(most_running: int) -> Select[str, str]:
    """One look into the index for each tenant, however many jobs wait."""
    first = _head()
    at_work = select(func.count()).where(Job.tenant_id == Tenant.id, Job.status.in_(WITH_WORKER)).scalar_subquery()
    limit = func.coalesce(Tenant.limits["running_jobs"].as_integer(), most_running)
    turn = (at_work, Tenant.served_at.asc().nulls_first(), first.c.id)
    waiting = select(first.c.id, Tenant.id.label("tenant_id")).join(first, true()).where(at_work < limit)
    return waiting.order_by(*turn).limit(1)


def _head() -> LateralFromClause:
    """The first waiting job of the tenant whose row it is joined with."""
    head = select(Job.id).where(Job.tenant_id == Tenant.id, Job.status == JobStatus.QUEUED).order_by(*IN_ORDER).limit(1)
    return head.lateral("first")


@dataclass(frozen=True)
class Line:
    """The waiting jobs of one tenant."""

    waiting: int
    at_work: int
    served_at: datetime | None
    first: str

    def key(self, rank: int) -> tuple[int, int, float, str]:
        """Where its job number `rank` stands among all tenants' while none of the jobs at work ends; lower is sooner.

        Every job that is taken counts as at work; tenants that are level come in the order in which they were served, and
        those that wait with their first job before those that were served meanwhile.
        """
        served = float("-inf") if self.served_at is None else self.served_at.timestamp()
        return self.at_work + rank, rank, served, self.first

    def before(self, key: tuple[int, int, float, str]) -> int:
        """How many of these jobs come before a key of another tenant."""
        level = key[0] - self.at_work  # jobs of lower rank are sooner, and perhaps the one of this rank
        return min(self.waiting, max(0, level) + (level >= 0 and self.key(level) < key))


def positions(session: Session, job_ids: list[str], newest: bool = False) -> dict[str, int]:
    """{job: its place in the queue, 1 is next} of those of the jobs that wait; the order in which `claim_next` takes them.

    `newest`: these jobs came last, so that there are few behind them.
    """
    lines, ranks = dict[str, Line](), dict[str, tuple[str, int]]()
    found_lines = (COUNTED if newest or len(job_ids) == 1 else NUMBERED).run(session, ids=job_ids)
    for tenant, waiting, at_work, served_at, first_id, job_id, behind in found_lines:
        lines[tenant] = Line(waiting, at_work, served_at, first_id)
        if job_id is not None and behind is not None:
            ranks[job_id] = tenant, waiting - 1 - behind
    found = {}
    for job_id, (tenant, rank) in ranks.items():
        others = sum(line.before(lines[tenant].key(rank)) for name, line in lines.items() if name != tenant)
        found[job_id] = 1 + rank + others
    return found


def _lines(asked: Select[str, str, int]) -> Select[str, int, int, datetime | None, str, str | None, int | None]:
    """The line of each tenant, once for each of its jobs that is asked for and waits, with the number of jobs behind it."""
    # Counted apart, each by an index of its own: the waiting jobs are many, and their rows large.
    queued = select(func.count().label("jobs")).where(Job.tenant_id == Tenant.id, Job.status == JobStatus.QUEUED)
    at_work = select(Job.tenant_id, func.count().label("jobs")).where(Job.status.in_(WITH_WORKER)).group_by(Job.tenant_id)
    line, busy, first, ranks = queued.lateral(), at_work.subquery(), _head(), asked.subquery()
    tenants = (
        select(Tenant.id, line.c.jobs, func.coalesce(busy.c.jobs, 0).label("busy"), Tenant.served_at, first.c.id.label("first"))
        .select_from(Tenant)
        .join(first, true())
        .join(line, true())
        .outerjoin(busy, busy.c.tenant_id == Tenant.id)
    )
    # Materialized: once for each tenant, and not for each of the jobs that are asked for.
    lines = tenants.cte("lines").prefix_with("MATERIALIZED")
    return select(*lines.c, ranks.c.id, ranks.c.behind).outerjoin_from(lines, ranks, ranks.c.tenant_id == lines.c.id)


def _numbered() -> Select[str, str, int]:
    """(id, tenant, jobs behind it) of the waiting jobs `ids`, found by numbering their tenants' lines."""
    mine = select(Job.tenant_id).where(Job.id == WANTED, Job.status == JobStatus.QUEUED)
    behind = (func.row_number().over(partition_by=Job.tenant_id, order_by=FROM_BEHIND) - 1).label("behind")
    lines = select(Job.id, Job.tenant_id, behind).where(Job.status == JobStatus.QUEUED, Job.tenant_id.in_(mine)).subquery()
    return select(lines.c.id, lines.c.tenant_id, lines.c.behind).where(lines.c.id == WANTED)


def _counted() -> Select[str, str, int]:
    """The same, found by counting the jobs behind each: two ranges of the index, short ones for jobs that came last."""
    other = aliased(Job)
    waits = select(func.count()).where(other.tenant_id == Job.tenant_id, other.status == JobStatus.QUEUED)
    lower = waits.where(other.priority < Job.priority).scalar_subquery()
    later = waits.where(other.priority == Job.priority, other.id > Job.id).scalar_subquery()
    counted = select(Job.id, Job.tenant_id, (lower + later).label("behind"))
    return counted.where(Job.id == WANTED, Job.status == JobStatus.QUEUED)


NUMBERED, COUNTED = Prepared(_lines(_numbered())), Prepared(_lines(_counted()))
