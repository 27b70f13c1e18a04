"""Webhooks by the Standard Webhooks scheme: endpoints of a tenant, and an outbox of what is to be delivered to them.

A delivery is written in the transaction of the change that it tells of, so neither is ever there without the other. It is
tried until an endpoint takes it, for a day; see `worker.webhooks.deliveries` for the sending.

An endpoint that answers nothing, or that it is ill, rests: nothing goes there until its pause is over, and that grows from one
failure to the next. So it costs a sender one attempt at a time, however much is to be delivered to it.
"""

import base64
import json
import random
import secrets
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Literal, get_args

from sqlalchemy import Row, Select, case, delete, func, or_, select, true, update
from sqlalchemy.orm import Session

from jobstore.kit.ids import new_id
from jobstore.kit.tables import Dataset, Delivery, Job, Json, Webhook

EventType = Literal["job.succeeded", "job.failed", "job.cancelled", "dataset.ready", "dataset.failed"]
EVENT_TYPES: tuple[EventType, ...] = get_args(EventType)
MOST_ENDPOINTS = 20  # of a tenant
SECRET_BYTES = 32
TRIED_FOR = timedelta(hours=24)
FIRST_RETRY, LAST_RETRY, GROWTH = 5.0, 6 * 3600.0, 4.0  # seconds between two tries: 5, 20, 80 … and at last every six hours
MOST_GROWTHS = 10  # of a pause; after fewer it is the last
JITTER = 0.1  # of a pause, so that an endpoint that comes back is not met by everything at once
OF_ENDPOINT, OF_TENANT = 2, 8  # most deliveries on their way at once from one sender; one to an endpoint that has failed last
ILL = 500  # from this status on it is the endpoint that fails, and not what it was told
TOO_MANY = 429
LEASE = timedelta(minutes=2)  # a sender silent for longer has died, and the delivery is tried again
KEPT = timedelta(days=30)


def new_secret() -> str:
    """What an endpoint checks signatures with, as the scheme writes it."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def announce(session: Session, row_id: str) -> None:
    """Write the deliveries that tell the tenant of a job or dataset that has come to an end, as its row says now."""
    model: type[Job] | type[Dataset] = Job if row_id.startswith("job_") else Dataset
    row = session.execute(select(model.tenant_id, model.name, model.status, model.error).where(model.id == row_id)).one()
    kind = f"{'job' if model is Job else 'dataset'}.{row.status}"
    data = {"id": row_id, "name": row.name, "status": row.status, "error": row.error}
    endpoints = session.scalars(select(Webhook).where(Webhook.tenant_id == row.tenant_id, Webhook.events.contains([kind])))
    for endpoint in endpoints.all():
        session.add(new_delivery(endpoint, kind, data))


def new_delivery(endpoint: Webhook, kind: str, data: Json) -> Delivery:
    now = datetime.now(UTC)
    body = json.dumps({"type": kind, "timestamp": now.isoformat(), "data": data}, separators=(",", ":"))
    row = Delivery(id=new_id("msg"), tenant_id=endpoint.tenant_id, webhook_id=endpoint.id, type=kind, body=body)
    row.status, row.next_try_at, row.give_up_at = "pending", max(now, endpoint.rests_until or now), now + TRIED_FOR
    return row


def resend(session: Session, row: Delivery) -> None:
    """Try a delivery at once, and for another day, whatever became of it."""
    now = session.scalars(select(func.now())).one()
    row.status, row.attempts, row.next_try_at, row.give_up_at, row.error = "pending", 0, now, now + TRIED_FOR, None


def claim(session: Session, most: int, on_their_way: Iterable[Delivery] = ()) -> list[Delivery]:
    """Deliveries that are due, each for one sender only; their attempt has begun.

    With what is `on_their_way` from this sender no endpoint and no tenant has more than its share. Tenants take turns: a
    second delivery of one comes after the first of every other.
    """
    chosen = _in_turn(session.execute(_due()).all(), on_their_way)[:most]
    if not chosen:
        return []
    free = select(Delivery.id).where(Delivery.id.in_(chosen), Delivery.next_try_at <= func.now())
    taken = (
        update(Delivery)
        .where(Delivery.id.in_(free.with_for_update(skip_locked=True).scalar_subquery()))
        .values(attempts=Delivery.attempts + 1, next_try_at=func.now() + LEASE)
    )
    return list(session.scalars(taken.returning(Delivery)))


def _due() -> Select[str, str, str, int, datetime]:
    """One look into the index for each endpoint, however much is to be delivered to it."""
    due = Delivery.webhook_id == Webhook.id, Delivery.next_try_at <= func.now()
    first = select(Delivery.id, Delivery.next_try_at).where(*due).order_by(Delivery.next_try_at).limit(OF_ENDPOINT).lateral()
    return select(first.c.id, Webhook.id.label("webhook_id"), Webhook.tenant_id, Webhook.failures, first.c.next_try_at).join(
        first, true()
    )


def _in_turn(due: Iterable[Row[str, str, str, int, datetime]], on_their_way: Iterable[Delivery]) -> list[str]:
    on_their_way = list(on_their_way)
    of_endpoint = Counter(delivery.webhook_id for delivery in on_their_way)
    of_tenant = Counter(delivery.tenant_id for delivery in on_their_way)
    ranked = []
    for row in sorted(due, key=lambda row: row.next_try_at):
        if of_endpoint[row.webhook_id] < (1 if row.failures else OF_ENDPOINT) and of_tenant[row.tenant_id] < OF_TENANT:
            of_endpoint[row.webhook_id] += 1
            of_tenant[row.tenant_id] += 1
            ranked.append((of_tenant[row.tenant_id], row.next_try_at, row.id))
    return [delivery_id for _, _, delivery_id in sorted(ranked)]


def record(session: Session, delivery: Delivery, status: int | None, error: str | None) -> None:
    """What came of an attempt: `error` is None where the endpoint took it. A later attempt's outcome is not overwritten."""
    values: dict[str, object] = {"response_status": status, "error": error}
    failures = _count_failure(session, delivery, status) if error else _count_success(session, delivery)
    if error is None:
        values |= {"status": "delivered", "next_try_at": None, "delivered_at": func.now()}
    else:
        following = datetime.now(UTC) + _pause(max(delivery.attempts, failures))
        over = following > delivery.give_up_at
        values |= {"status": "failed" if over else "pending", "next_try_at": None if over else following}
    mine = update(Delivery).where(Delivery.id == delivery.id, Delivery.attempts == delivery.attempts)
    session.execute(mine.where(Delivery.status == "pending").values(values))


def _count_failure(session: Session, delivery: Delivery, status: int | None) -> int:
    """How often the endpoint has failed in a row; it rests, and what waits for it with it."""
    if status is not None and status < ILL and status != TOO_MANY:
        return 0
    endpoint = Webhook.id == delivery.webhook_id
    counted = update(Webhook).where(endpoint).values(failures=Webhook.failures + 1).returning(Webhook.failures)
    failures = session.scalar(counted) or 0
    until = datetime.now(UTC) + _pause(failures)
    session.execute(update(Webhook).where(endpoint).values(rests_until=until))
    over = Delivery.give_up_at < until
    waiting = update(Delivery).where(
        Delivery.webhook_id == delivery.webhook_id, Delivery.status == "pending", Delivery.next_try_at < until
    )
    rest = {
        "next_try_at": case((over, None), else_=until),
        "status": case((over, "failed"), else_=Delivery.status),
        "error": case((over, "The endpoint had failed before and was not tried again in time."), else_=Delivery.error),
    }
    session.execute(waiting.where(Delivery.id != delivery.id).values(rest))
    return failures


def _count_success(session: Session, delivery: Delivery) -> int:
    """The endpoint is well: what has not been tried because of it is due."""
    failed = update(Webhook).where(Webhook.id == delivery.webhook_id, Webhook.failures > 0)
    if session.scalar(failed.values(failures=0, rests_until=None).returning(Webhook.id)) is not None:
        untried = Delivery.webhook_id == delivery.webhook_id, Delivery.status == "pending", Delivery.attempts == 0
        session.execute(update(Delivery).where(*untried).values(next_try_at=func.now()))
    return 0


def _pause(failures: int) -> timedelta:
    seconds = min(FIRST_RETRY * GROWTH ** min(max(failures - 1, 0), MOST_GROWTHS), LAST_RETRY)
    return timedelta(seconds=seconds * random.uniform(1 - JITTER, 1 + JITTER))


def forget_old(session: Session) -> None:
    """Delete deliveries that nobody will look at again."""
    over = or_(Delivery.status == "delivered", Delivery.status == "failed")
    session.execute(delete(Delivery).where(over, Delivery.created_at < func.now() - KEPT))
