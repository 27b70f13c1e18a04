"""What API keys show."""

from datetime import datetime

from pydantic import BaseModel, Field

from api.kit.answers import columns
from jobstore.kit import tables
from jobstore.tenants.keys import Scope


class KeyView(BaseModel):
    id: str
    name: str
    scope: Scope
    hint: str = Field(description="The last characters of the key")
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = Field(description="To a few minutes")

    @classmethod
    def of(cls, row: tables.ApiKey) -> "KeyView":
        return cls.model_validate(columns(row, "id name scope hint created_at expires_at revoked_at last_used_at"))


class NewKeyView(KeyView):
    key: str | None = Field(None, description="The key itself; absent when the same request comes again")

    @classmethod
    def with_key(cls, row: tables.ApiKey, key: str) -> "NewKeyView":
        return cls(key=key, **KeyView.of(row).model_dump())
