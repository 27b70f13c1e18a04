"""API keys: shown once, stored as SHA-256 only; each opens one tenant, within its scope, until it expires or is revoked."""

import hashlib
import math
import secrets
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, get_args

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from jobstore.jobs import events
from jobstore.kit.errors import ConflictError
from jobstore.kit.ids import new_id
from jobstore.kit.tables import ApiKey, Tenant

Scope = Literal["read", "write", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)  # each includes those before it
OPERATOR = "default"  # the tenant whose admin keys manage the other tenants
PREFIX = "difffit_"  # by which programs that search for leaked secrets know a key
HINT = 4  # characters of a key that stay visible
LAST_USED_STEP = timedelta(minutes=5)  # the time of use is written once in so long, not once a request


@dataclass(frozen=True)
class OpenedKey:
    """What a key that was found says of its bearer."""

    id: str
    tenant_id: str
    tenant: str
    scope: Scope
    state: Literal["valid", "expired", "revoked"]
    expires: float  # by the monotonic clock of this process; infinity: never

    def allows(self, scope: Scope) -> bool:
        return SCOPES.index(scope) <= SCOPES.index(self.scope)


def hash_key(key: str) -> str:
    """SHA-256 in hex. Keys are long and random, so no slow hash is needed."""
    return hashlib.sha256(key.encode()).hexdigest()


def open_key(session: Session, key: str) -> OpenedKey | None:
    """Look a key up, by the database's clock, and note its use; None where it is unknown."""
    asked_at, now = time.monotonic(), select(func.now()).scalar_subquery()
    found = session.execute(
        select(ApiKey, Tenant.name, now).join(Tenant, ApiKey.tenant_id == Tenant.id).where(ApiKey.sha256 == hash_key(key))
    ).first()
    if found is None:
        return None
    row, tenant, at = found
    left = math.inf if row.expires_at is None else (row.expires_at - at).total_seconds()
    state: Literal["valid", "expired", "revoked"] = "valid"
    if row.revoked_at is not None and row.revoked_at <= at:
        state = "revoked"
    elif left <= 0:
        state = "expired"
    elif row.last_used_at is None or row.last_used_at < at - LAST_USED_STEP:
        session.execute(update(ApiKey).where(ApiKey.id == row.id).values(last_used_at=at))
    return OpenedKey(row.id, row.tenant_id, tenant, _scope(row.scope), state, asked_at + left)


def install_key(session: Session, key: str, tenant_name: str = OPERATOR) -> Tenant:
    """Make the key an admin key of the tenant, creating both where they are missing. A key that exists stays as it is."""
    tenant = create_tenant(session, tenant_name)
    session.execute(insert(ApiKey).values(_values(tenant, key, "installed", "admin", None)).on_conflict_do_nothing())
    owner = session.scalars(select(Tenant).join(ApiKey).where(ApiKey.sha256 == hash_key(key)))
    return owner.one()


def create_tenant(session: Session, name: str) -> Tenant:
    """The tenant of that name, made where it is missing."""
    session.execute(insert(Tenant).values(id=new_id("ten"), name=name, limits={}).on_conflict_do_nothing())
    return session.scalars(select(Tenant).where(Tenant.name == name)).one()


def create_key(
    session: Session, tenant: Tenant, name: str, scope: Scope, expires_at: datetime | None = None
) -> tuple[ApiKey, str]:
    """A new key: its row, and the key itself, which is kept nowhere."""
    key = PREFIX + secrets.token_urlsafe(32)
    row = ApiKey(**_values(tenant, key, name, scope, expires_at))
    session.add(row)
    session.flush()
    return row, key


def _values(tenant: Tenant, key: str, name: str, scope: Scope, expires_at: datetime | None) -> dict[str, object]:
    values: dict[str, object] = {"id": new_id("key"), "tenant_id": tenant.id, "name": name, "scope": scope}
    return values | {"sha256": hash_key(key), "hint": key[-HINT:], "expires_at": expires_at}


def rotate_key(session: Session, row: ApiKey, grace: timedelta) -> tuple[ApiKey, str]:
    """A new key in place of this one; the old one works for `grace` longer. Raises ConflictError (`key_not_valid`)."""
    now = _lock_valid(session, row)
    new, key = create_key(session, session.get_one(Tenant, row.tenant_id), row.name, _scope(row.scope), row.expires_at)
    row.expires_at = min(row.expires_at or now + grace, now + grace)
    events.notify(session, "key", row.id)
    return new, key


def revoke_key(session: Session, row: ApiKey) -> None:
    """Close a key for ever. Raises ConflictError (`key_not_valid`, `last_admin_key`)."""
    # Two admins that revoke each other's keys at once take turns.
    session.execute(select(Tenant.id).where(Tenant.id == row.tenant_id).with_for_update())
    now = _lock_valid(session, row)
    valid = ApiKey.revoked_at.is_(None) & (func.coalesce(ApiKey.expires_at, func.now()) >= func.now())
    others = select(ApiKey.id).where(ApiKey.tenant_id == row.tenant_id, ApiKey.id != row.id, ApiKey.scope == "admin", valid)
    if row.scope == "admin" and session.scalar(others.limit(1)) is None:
        raise ConflictError("This is the tenant's last admin key. Make another before you revoke it.", code="last_admin_key")
    row.revoked_at = now
    events.notify(session, "key", row.id)


def _lock_valid(session: Session, row: ApiKey) -> datetime:
    """The database's time, with the row locked; raises ConflictError where the key opens nothing any more."""
    session.refresh(row, with_for_update=True)
    now = session.scalars(select(func.now())).one()
    if row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= now):
        raise ConflictError("The key was revoked or has expired. Make a new one.", code="key_not_valid")
    return now


def _scope(text: str) -> Scope:
    return next(scope for scope in SCOPES if scope == text)
