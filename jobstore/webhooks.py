"""Webhooks by the Standard Webhooks scheme: endpoints of a tenant, and an outbox of what is to be delivered to them.

A delivery is written in the transaction of the change that it tells of, so neither is ever there without the other. It is
tried until an endpoint takes it, for a day; see `worker.webhooks` for the sending.
"""

import base64
import json
import random
import secrets
from datetime import UTC, datetime, timedelta
from typing import Literal, get_args

from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.orm import Session

from jobstore.ids import new_id
from jobstore.tables import Dataset, Delivery, Job, Json, Webhook

EventType = Literal["job.succeeded", "job.failed", "job.cancelled", "dataset.ready", "dataset.failed"]
EVENT_TYPES: tuple[EventType, ...] = get_args(EventType)
MOST_ENDPOINTS = 20  # of a tenant
SECRET_BYTES = 32
TRIED_FOR = timedelta(hours=24)
FIRST_RETRY, LAST_RETRY, GROWTH = 5.0, 6 * 3600.0, 4.0  # seconds between two tries: 5, 20, 80 … and at last every six hours
JITTER = 0.1  # of a pause, so that an endpoint that comes back is not met by everything at once
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
    row.status, row.next_try_at, row.give_up_at = "pending", now, now + TRIED_FOR
    return row


def resend(session: Session, row: Delivery) -> None:
    """Try a delivery at once, and for another day, whatever became of it."""
    now = session.scalars(select(func.now())).one()
    row.status, row.attempts, row.next_try_at, row.give_up_at, row.error = "pending", 0, now, now + TRIED_FOR, None


def claim(session: Session, most: int) -> list[Delivery]:
    """Deliveries that are due, each for one sender only; their attempt has begun."""
    due = select(Delivery.id).where(Delivery.next_try_at <= func.now()).order_by(Delivery.next_try_at).limit(most)
    taken = (
        update(Delivery)
        .where(Delivery.id.in_(due.with_for_update(skip_locked=True).scalar_subquery()))
        .values(attempts=Delivery.attempts + 1, next_try_at=func.now() + LEASE)
    )
    return list(session.scalars(taken.returning(Delivery)))


def record(session: Session, delivery: Delivery, status: int | None, error: str | None) -> None:
    """What came of an attempt: `error` is None where the endpoint took it. A later attempt's outcome is not overwritten."""
    values: dict[str, object] = {"response_status": status, "error": error}
    if error is None:
        values |= {"status": "delivered", "next_try_at": None, "delivered_at": func.now()}
    else:
        pause = min(FIRST_RETRY * GROWTH ** (delivery.attempts - 1), LAST_RETRY) * random.uniform(1 - JITTER, 1 + JITTER)
        following = datetime.now(UTC) + timedelta(seconds=pause)
        over = following > delivery.give_up_at
        values |= {"status": "failed" if over else "pending", "next_try_at": None if over else following}
    mine = update(Delivery).where(Delivery.id == delivery.id, Delivery.attempts == delivery.attempts)
    session.execute(mine.where(Delivery.status == "pending").values(values))


def forget_old(session: Session) -> None:
    """Delete deliveries that nobody will look at again."""
    over = or_(Delivery.status == "delivered", Delivery.status == "failed")
    session.execute(delete(Delivery).where(over, Delivery.created_at < func.now() - KEPT))
