"""Webhooks: endpoints of the tenant, and what was delivered to them."""

from typing import Annotated

from fastapi import APIRouter, Depends, Response
from pydantic import Field
from sqlalchemy import func, select

from api.kit.answers import Listing, errors
from api.kit.auth import TenantId
from api.kit.dependencies import ResourcesDep, Transaction, owned, owned_rows
from api.kit.idempotency import Idempotent, created
from api.kit.pagination import PageQuery, page_of
from api.webhooks.schemas import DeliveryView, NewWebhookView, WebhookView
from difffit_core.spec.strict import Strict
from jobstore.kit.errors import ConflictError, NotFoundError
from jobstore.kit.ids import new_id
from jobstore.kit.tables import Delivery, Tenant, Webhook
from jobstore.webhooks import deliveries as webhooks
from jobstore.webhooks.addresses import MAX_URL, check_url
from jobstore.webhooks.deliveries import EVENT_TYPES, MOST_ENDPOINTS, EventType

router = APIRouter(prefix="/webhooks", tags=["webhooks"])


class WebhookRequest(Strict):
    url: str = Field(min_length=1, max_length=MAX_URL, description="Where to POST to; https, but on networks you trust")
    events: list[EventType] = Field(list(EVENT_TYPES), min_length=1, max_length=100, description="Absent: all of them")


@router.post("", status_code=201, dependencies=[Idempotent], responses=errors(400, 409, 413, 415))
def make_webhook(
    request: WebhookRequest, tenant: TenantId, session: Transaction, resources: ResourcesDep, response: Response
) -> NewWebhookView:
    """Have the ends of jobs and datasets told to an endpoint. The answer is the only place where its secret can be read."""
    check_url(request.url, resources.settings.webhook_private_addresses)
    session.get_one(Tenant, tenant, with_for_update=True)  # two requests do not pass the limit together
    if (session.scalar(select(func.count()).where(Webhook.tenant_id == tenant)) or 0) >= MOST_ENDPOINTS:
        raise ConflictError(f"A tenant has {MOST_ENDPOINTS} webhooks at most. Delete one first.", code="too_many_webhooks")
    row = Webhook(id=new_id("wh"), tenant_id=tenant, url=request.url, secret=webhooks.new_secret())
    row.events = sorted(set(request.events))
    session.add(row)
    session.flush()
    session.refresh(row)
    response.headers["location"] = f"/webhooks/{row.id}"
    created(session, response.headers["location"])
    return NewWebhookView.with_secret(row)


@router.get("", responses=errors(404))
def list_webhooks(page: PageQuery, tenant: TenantId, session: Transaction) -> Listing[WebhookView]:
    """The tenant's endpoints, newest first."""
    rows, more = page_of(session, owned_rows(Webhook, tenant), Webhook, page)
    return Listing(data=[WebhookView.of(row) for row in rows], has_more=more)


def find_webhook(webhook_id: str, tenant: TenantId, session: Transaction) -> Webhook:
    return owned(session, Webhook, webhook_id, tenant)


FoundWebhook = Annotated[Webhook, Depends(find_webhook)]


@router.get("/{webhook_id}", responses=errors(404))
def get_webhook(webhook: FoundWebhook) -> WebhookView:
    """One endpoint."""
    return WebhookView.of(webhook)


@router.delete("/{webhook_id}", status_code=204, responses=errors(404))
def delete_webhook(webhook: FoundWebhook, session: Transaction) -> None:
    """Delete an endpoint with all its deliveries; what is on its way may still arrive."""
    session.delete(webhook)


@router.get("/{webhook_id}/deliveries", responses=errors(404))
def list_deliveries(webhook: FoundWebhook, page: PageQuery, session: Transaction) -> Listing[DeliveryView]:
    """What was, or will be, sent to the endpoint, newest first; kept for 30 days."""
    rows, more = page_of(session, select(Delivery).where(Delivery.webhook_id == webhook.id), Delivery, page)
    return Listing(data=[DeliveryView.of(row) for row in rows], has_more=more)


@router.post("/{webhook_id}/deliveries/{delivery_id}/resend", status_code=202, responses=errors(404))
def resend(webhook: FoundWebhook, delivery_id: str, tenant: TenantId, session: Transaction) -> DeliveryView:
    """Send a delivery again, now and for another day until it is taken. It keeps its id."""
    row = owned(session, Delivery, delivery_id, tenant)
    if row.webhook_id != webhook.id:
        raise NotFoundError(f"There is no delivery {delivery_id[:80]!r} of this webhook.", code="delivery_not_found")
    webhooks.resend(session, row)
    return DeliveryView.of(row)
