"""Tenants: the operator makes them, each with a first admin key, and sets their limits."""

from fastapi import APIRouter, Response
from pydantic import Field
from sqlalchemy import select

from api.auth import Operator
from api.dependencies import Transaction
from api.pagination import PageQuery, page_of
from api.routes.keys import KeyRequest, new_key
from api.schemas import Listing, NewTenantView, TenantView, errors
from difffit_core.strict import Strict
from jobstore.errors import ConflictError, NotFoundError
from jobstore.ids import new_id
from jobstore.tables import Tenant

router = APIRouter(prefix="/tenants", tags=["keys"], dependencies=[Operator])


class TenantRequest(Strict):
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$", description="Lower case; what people call the tenant")


@router.post("", status_code=201, responses=errors(400, 409, 413, 415))
def make_tenant(request: TenantRequest, session: Transaction, response: Response) -> NewTenantView:
    """Make a tenant with its first admin key, which the answer shows and nothing else ever does."""
    if session.scalar(select(Tenant.id).where(Tenant.name == request.name)) is not None:
        raise ConflictError(f"There is a tenant {request.name!r} already.", code="tenant_exists", param="name")
    tenant = Tenant(id=new_id("ten"), name=request.name)
    session.add(tenant)
    session.flush()
    session.refresh(tenant)
    key = new_key(session, tenant, KeyRequest(name="first", scope="admin"))
    response.headers["location"] = f"/tenants/{tenant.id}"
    return NewTenantView.with_key(tenant, key)


@router.get("", responses=errors())
def list_tenants(page: PageQuery, session: Transaction) -> Listing[TenantView]:
    """All tenants, newest first."""
    rows, more = page_of(session, select(Tenant), Tenant, page)
    return Listing(data=[TenantView.of(row) for row in rows], has_more=more)


@router.get("/{tenant_id}", responses=errors(404))
def get_tenant(tenant_id: str, session: Transaction) -> TenantView:
    """One tenant with its limits."""
    return TenantView.of(find_tenant(session, tenant_id))


def find_tenant(session: Transaction, tenant_id: str) -> Tenant:
    found = session.get(Tenant, tenant_id) if "\0" not in tenant_id else None
    if found is None:
        raise NotFoundError(f"There is no tenant {tenant_id[:80]!r}.", code="tenant_not_found")
    return found
