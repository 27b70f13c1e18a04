"""Whose turn it is in the queues that are no jobs': tenants take turns, and so do the kinds of work of one tenant.

The next row is of the tenant with the fewest rows at work in that queue, of those of the one that was served longest ago. So a
hundred requests of one tenant keep another's only one waiting for one turn, of whatever kinds they are. An evaluation takes
minutes where others take seconds, and goes on later from where it was: it makes way, and counts for nobody as at work.
"""

from datetime import timedelta

from sqlalchemy import Select, and_, func, literal, select, true, union_all
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from jobstore.kit import leases
from jobstore.kit.dispatch import QUEUES, Kind
from jobstore.kit.tables import Dataset, Estimate, Evaluation, Export, Generation, Job, Tenant, Turn

MODELS: dict[Kind, leases.LeasedModel] = {
    "train": Job,
    "generate": Generation,
    "export": Export,
    "evaluate": Evaluation,
    "estimate": Estimate,
    "check_dataset": Dataset,
}
KINDS: dict[leases.LeasedModel, Kind] = {model: kind for kind, model in MODELS.items()}
PATIENCE = timedelta(seconds=1)  # what waits for longer has found no free worker
# So long a tenant's evaluations let everything else in the queue pass, after each of their turns; then they are like the rest.
EVALUATION_REST = timedelta(seconds=60)


def next_waiting(session: Session, queue: str) -> tuple[Kind, str] | None:
    """The kind and id of the row whose turn it is, or None where none waits; another worker may be quicker to claim it."""
    kinds = [kind for kind, name in QUEUES.items() if name == queue]
    found = session.execute(_next(kinds)).first()
    return None if found is None else (found.kind, found.id)


def _next(kinds: list[Kind]) -> Select[str, str]:
    """One look into an index for each tenant and kind, however many rows wait."""
    heads = union_all(*(_heads(kind) for kind in kinds)).cte("heads")
    held = union_all(*(_at_work(MODELS[kind]) for kind in kinds if kind != "evaluate")).subquery()
    at_work = select(held.c.tenant_id, func.count().label("rows")).group_by(held.c.tenant_id).subquery()
    turns = select(Turn.tenant_id, func.max(Turn.served_at).label("last")).where(Turn.kind.in_(kinds))
    served = turns.group_by(Turn.tenant_id).subquery()
    of_kind = and_(Turn.tenant_id == heads.c.tenant_id, Turn.kind == heads.c.kind)
    resting = and_(heads.c.kind == "evaluate", func.coalesce(Turn.served_at > func.now() - EVALUATION_REST, False))
    return (
        select(heads.c.kind, heads.c.id)
        .outerjoin(at_work, at_work.c.tenant_id == heads.c.tenant_id)
        .outerjoin(served, served.c.tenant_id == heads.c.tenant_id)
        .outerjoin(Turn, of_kind)
        .order_by(
            resting,
            func.coalesce(at_work.c.rows, 0),
            served.c.last.asc().nulls_first(),
            Turn.served_at.asc().nulls_first(),
            heads.c.created_at,
        )
        .limit(1)
    )


def _heads(kind: Kind) -> Select[str, str, str, object]:
    """The first waiting row of each tenant."""
    model = MODELS[kind]
    waits = model.status == leases.WAITING[model], model.lease_token.is_(None)
    first = select(model.id, model.created_at).where(model.tenant_id == Tenant.id, *waits).order_by(model.id).limit(1)
    head = first.lateral()
    return select(literal(kind).label("kind"), Tenant.id.label("tenant_id"), head.c.id, head.c.created_at).join(head, true())


def _at_work(model: leases.LeasedModel) -> Select[str]:
    return select(model.tenant_id).where(model.lease_token.is_not(None))


def makes_way(session: Session, evaluation: Evaluation, turn_is_over: bool) -> bool:
    """Whether an evaluation at work is to give its worker to somebody who waits.

    To anything shorter that has found no free worker, and to another tenant's evaluation when its own turn is over.
    """
    shorter = [MODELS[kind] for kind, queue in QUEUES.items() if queue == QUEUES["evaluate"] and kind != "evaluate"]
    waiting = [_long_waiting(model) for model in shorter]
    if turn_is_over:
        waiting.append(_long_waiting(Evaluation).where(Evaluation.tenant_id != evaluation.tenant_id))
    return session.scalar(union_all(*waiting).limit(1)) is not None


def _long_waiting(model: leases.LeasedModel) -> Select[str]:
    old = model.created_at < func.now() - PATIENCE
    return select(model.id).where(model.status == leases.WAITING[model], model.lease_token.is_(None), old)


def count(session: Session, model: leases.LeasedModel, tenant_id: str) -> None:
    """The tenant has its turn now, or has just had a part of it, with a row of this kind."""
    values = {"tenant_id": tenant_id, "kind": KINDS[model], "served_at": func.clock_timestamp()}
    again = {"served_at": func.clock_timestamp()}
    session.execute(insert(Turn).values(values).on_conflict_do_update(index_elements=[Turn.tenant_id, Turn.kind], set_=again))
