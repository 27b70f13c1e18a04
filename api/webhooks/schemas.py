"""What webhooks and their deliveries show."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from api.kit.answers import columns
from jobstore.kit import tables
from jobstore.webhooks.deliveries import EventType


class WebhookView(BaseModel):
    id: str
    url: str
    events: list[EventType]
    created_at: datetime

    @classmethod
    def of(cls, row: tables.Webhook) -> "WebhookView":
        return cls.model_validate(columns(row, "id url events created_at"))


class NewWebhookView(WebhookView):
    secret: str | None = Field(
        None, description="Checks the signatures, by the Standard Webhooks scheme; absent when the same request comes again"
    )

    @classmethod
    def with_secret(cls, row: tables.Webhook) -> "NewWebhookView":
        return cls.model_validate(columns(row, "id url events created_at secret"))


class DeliveryView(BaseModel):
    id: str = Field(description="Sent as `webhook-id`, the same at every attempt")
    type: str
    status: Literal["pending", "delivered", "failed"]
    attempts: int
    next_try_at: datetime | None
    response_status: int | None
    error: str | None
    body: str = Field(description="Exactly what is sent")
    created_at: datetime
    delivered_at: datetime | None

    @classmethod
    def of(cls, row: tables.Delivery) -> "DeliveryView":
        names = "id type status attempts next_try_at response_status error body created_at delivered_at"
        return cls.model_validate(columns(row, names))
