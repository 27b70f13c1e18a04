"""A new key of a tenant, as it is asked for."""

from datetime import timedelta
from typing import Annotated

from pydantic import Field
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from api.tenants.key_schemas import NewKeyView
from difffit_core.spec.strict import Strict
from jobstore.kit.tables import Tenant
from jobstore.tenants.keys import Scope, create_key

MAX_DAYS = 3650


class KeyRequest(Strict):
    name: str = Field(min_length=1, max_length=200, description="What the key is for")
    scope: Scope = Field("write", description="`read` looks, `write` also changes, `admin` also manages keys")
    expires_in_days: Annotated[int, Field(strict=True, ge=1, le=MAX_DAYS)] | None = Field(None, description="Absent: never")


def new_key(session: Session, tenant: Tenant, request: KeyRequest) -> NewKeyView:
    now = session.scalars(select(func.now())).one()
    expires_at = None if request.expires_in_days is None else now + timedelta(days=request.expires_in_days)
    row, key = create_key(session, tenant, request.name, request.scope, expires_at)
    session.refresh(row)
    return NewKeyView.with_key(row, key)
