"""What tenants show, and what they may use."""

from datetime import datetime

from pydantic import BaseModel, Field

from api.kit.answers import columns
from api.tenants.key_schemas import NewKeyView
from jobstore.kit import tables
from jobstore.kit.settings import Settings
from jobstore.tenants.quotas import Limits, Usage, limits_of


class UsageView(BaseModel):
    limits: Limits
    usage: Usage


class TenantView(BaseModel):
    id: str
    name: str
    limits: Limits
    created_at: datetime

    @classmethod
    def of(cls, row: tables.Tenant, settings: Settings) -> "TenantView":
        return cls(limits=limits_of(row, settings), **columns(row, "id name created_at"))


class NewTenantView(TenantView):
    key: NewKeyView | None = Field(None, description="The tenant's first admin key; absent when the same request comes again")

    @classmethod
    def with_key(cls, view: TenantView, key: NewKeyView) -> "NewTenantView":
        return cls(key=key, **view.model_dump())
