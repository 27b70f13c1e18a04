"""A tenant's keys: make, list, rotate, revoke. All of it wants the scope `admin`."""

from datetime import timedelta
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Body, Depends, Response
from pydantic import Field

from api.kit.answers import Listing, errors
from api.kit.auth import AdminTenantId
from api.kit.dependencies import ResourcesDep, Transaction, after_commit, owned, owned_rows
from api.kit.idempotency import Idempotent, created
from api.kit.pagination import PageQuery, page_of
from api.tenants.key_schemas import KeyView, NewKeyView
from api.tenants.keys import KeyRequest, new_key
from difffit_core.spec.strict import Strict
from jobstore.kit.tables import ApiKey, Tenant
from jobstore.tenants.keys import revoke_key, rotate_key

router = APIRouter(prefix="/keys", tags=["keys"])


class RotateRequest(Strict):
    grace_seconds: Annotated[int, Field(strict=True, ge=0, le=30 * 86_400)] = Field(
        0, description="How much longer the old key works"
    )


@router.post("", status_code=201, dependencies=[Idempotent], responses=errors(400, 409, 413, 415))
def make_key(request: KeyRequest, tenant: AdminTenantId, session: Transaction, response: Response) -> NewKeyView:
    """Make a key. The answer is the only place where it can be read."""
    view = new_key(session, session.get_one(Tenant, tenant), request)
    response.headers["location"] = f"/keys/{view.id}"
    created(session, response.headers["location"])
    return view


@router.get("", responses=errors(404))
def list_keys(page: PageQuery, tenant: AdminTenantId, session: Transaction) -> Listing[KeyView]:
    """The tenant's keys, newest first, those that are revoked or have expired too."""
    rows, more = page_of(session, owned_rows(ApiKey, tenant), ApiKey, page, known=owned_rows(ApiKey, tenant))
    return Listing(data=[KeyView.of(row) for row in rows], has_more=more)


def find_key(key_id: str, tenant: AdminTenantId, session: Transaction) -> ApiKey:
    return owned(session, ApiKey, key_id, tenant)


FoundKey = Annotated[ApiKey, Depends(find_key)]


@router.get("/{key_id}", responses=errors(404))
def get_key(key: FoundKey) -> KeyView:
    """What is known of one key."""
    return KeyView.of(key)


@router.post("/{key_id}/rotate", status_code=201, dependencies=[Idempotent], responses=errors(400, 404, 409, 413, 415))
def rotate(
    key: FoundKey,
    session: Transaction,
    resources: ResourcesDep,
    response: Response,
    request: Annotated[RotateRequest, Body(default_factory=RotateRequest)],
) -> NewKeyView:
    """A new key of the same name, scope and expiry; the old one stops working at once, or after `grace_seconds`."""
    row, text = rotate_key(session, key, timedelta(seconds=request.grace_seconds))
    session.refresh(row)
    after_commit(session, partial(resources.keyring.forget, key.id))
    response.headers["location"] = f"/keys/{row.id}"
    created(session, response.headers["location"])
    return NewKeyView.with_key(row, text)


@router.delete("/{key_id}", status_code=204, responses=errors(404, 409))
def revoke(key: FoundKey, session: Transaction, resources: ResourcesDep) -> None:
    """Revoke a key for ever. The tenant's last admin key cannot be."""
    revoke_key(session, key)
    after_commit(session, partial(resources.keyring.forget, key.id))
