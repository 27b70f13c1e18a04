"""Keys: what opens what, for how long, and what is written down of them."""

import time
from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session, sessionmaker

from jobstore.kit.errors import ConflictError
from jobstore.kit.tables import ApiKey, Tenant
from jobstore.tenants.keys import create_key, create_tenant, hash_key, install_key, open_key, revoke_key, rotate_key


@pytest.fixture
def session(sessions: sessionmaker[Session]) -> Iterator[Session]:
    with sessions.begin() as session:
        yield session


def test_a_key_opens_its_tenant_and_an_unknown_one_nothing(session: Session, tenant: Tenant, api_key: str) -> None:
    opened = open_key(session, api_key)
    assert opened is not None
    assert (opened.tenant_id, opened.tenant, opened.scope, opened.state) == (tenant.id, "default", "admin", "valid")
    assert open_key(session, api_key + "x") is None


def test_scopes_include_the_smaller_ones(session: Session, tenant: Tenant) -> None:
    allowed = {"read": "read", "write": "read write", "admin": "read write admin"}
    for scope in ("read", "write", "admin"):
        opened = open_key(session, create_key(session, tenant, "k", scope)[1])
        assert opened is not None
        assert " ".join(s for s in ("read", "write", "admin") if opened.allows(s)) == allowed[scope]


def test_the_key_itself_is_stored_nowhere(session: Session, tenant: Tenant) -> None:
    row, key = create_key(session, tenant, "laptop", "write")
    assert key.startswith("difffit_")
    assert len(key) > 40
    assert (row.sha256, row.hint) == (hash_key(key), key[-4:])
    stored = session.execute(text("SELECT string_agg(row_to_json(api_keys)::text, '') FROM api_keys")).scalar_one()
    assert key not in stored


def test_a_key_ends_when_it_expires(session: Session, tenant: Tenant) -> None:
    now = session.scalars(select(func.now())).one()
    _, over = create_key(session, tenant, "k", "read", now - timedelta(seconds=1))
    _, soon = create_key(session, tenant, "k", "read", now + timedelta(seconds=90))
    opened = [o for key in (over, soon) if (o := open_key(session, key))]
    assert [o.state for o in opened] == ["expired", "valid"]
    assert opened[1].expires - opened[0].expires == pytest.approx(91, abs=5)
    assert opened[1].expires == pytest.approx(time.monotonic() + 90, abs=5)


def test_use_is_noted_once_in_a_while(session: Session, tenant: Tenant) -> None:
    row, key = create_key(session, tenant, "k", "read")
    assert row.last_used_at is None
    for ago, noted in ((None, True), (timedelta(minutes=1), False), (timedelta(minutes=6), True)):
        before = None if ago is None else session.scalars(select(func.now() - ago)).one()
        row.last_used_at = before
        session.flush()
        open_key(session, key)
        session.refresh(row)
        assert (row.last_used_at != before) == noted


def test_a_rotated_key_works_on_for_its_grace(session: Session, tenant: Tenant) -> None:
    row, old = create_key(session, tenant, "robot", "write")
    new_row, new = rotate_key(session, row, timedelta(seconds=60))
    assert (new_row.name, new_row.scope, new_row.expires_at) == ("robot", "write", None)
    session.flush()
    opened = open_key(session, old)
    assert opened is not None
    assert opened.expires == pytest.approx(time.monotonic() + 60, abs=5)
    _, newest = rotate_key(session, new_row, timedelta(0))
    session.flush()
    assert [o.state for key in (new, newest) if (o := open_key(session, key))] == ["expired", "valid"]
    with pytest.raises(ConflictError) as refused:
        rotate_key(session, new_row, timedelta(0))
    assert refused.value.code == "key_not_valid"


def test_the_last_admin_key_cannot_be_revoked(session: Session, tenant: Tenant, api_key: str) -> None:
    first = session.scalars(select(ApiKey)).one()
    create_key(session, create_tenant(session, "another"), "of another tenant", "admin")
    create_key(session, tenant, "no admin", "write")
    with pytest.raises(ConflictError) as refused:
        revoke_key(session, first)
    assert refused.value.code == "last_admin_key"
    create_key(session, tenant, "second", "admin")
    revoke_key(session, first)
    session.flush()
    opened = open_key(session, api_key)
    assert opened is not None
    assert opened.state == "revoked"


def test_installing_a_revoked_key_does_not_revive_it(session: Session, tenant: Tenant, api_key: str) -> None:
    create_key(session, tenant, "second", "admin")
    revoke_key(session, session.scalars(select(ApiKey).where(ApiKey.name == "installed")).one())
    assert install_key(session, api_key).id == tenant.id
    session.flush()
    opened = open_key(session, api_key)
    assert opened is not None
    assert opened.state == "revoked"
