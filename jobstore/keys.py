"""API keys: stored as SHA-256 only, each opening one tenant."""

import hashlib

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from jobstore.ids import new_id
from jobstore.tables import ApiKey, Tenant


def hash_key(key: str) -> str:
    """SHA-256 in hex. Keys are long and random, so no slow hash is needed."""
    return hashlib.sha256(key.encode()).hexdigest()


def install_key(session: Session, key: str, tenant_name: str = "default") -> Tenant:
    """Make the key open the tenant, creating both where they are missing. A key that exists keeps its tenant."""
    session.execute(insert(Tenant).values(id=new_id("ten"), name=tenant_name).on_conflict_do_nothing())
    tenant_id = session.scalars(select(Tenant.id).where(Tenant.name == tenant_name)).one()
    session.execute(insert(ApiKey).values(id=new_id("key"), tenant_id=tenant_id, sha256=hash_key(key)).on_conflict_do_nothing())
    tenant = find_tenant(session, key)
    assert tenant is not None  # the key was installed two lines above
    return tenant


def find_tenant(session: Session, key: str) -> Tenant | None:
    """The tenant that a key opens; None where the key is unknown."""
    return session.scalar(select(Tenant).join(ApiKey).where(ApiKey.sha256 == hash_key(key)))
