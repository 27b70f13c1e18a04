"""Tenants: the operator makes them, each with a first admin key, and sets their limits; each sees its own usage."""

from typing import Annotated

from fastapi import APIRouter, Depends, Response
from pydantic import Field
from sqlalchemy import select

from api.kit.answers import Listing, errors
from api.kit.auth import Operator, TenantId
from api.kit.dependencies import ResourcesDep, Transaction
from api.kit.idempotency import Idempotent, created
from api.kit.pagination import PageQuery, page_of
from api.tenants.keys import KeyRequest, new_key
from api.tenants.schemas import NewTenantView, TenantView, UsageView
from difffit_core.spec.strict import Strict
from jobstore.kit.errors import ConflictError, NotFoundError
from jobstore.kit.ids import new_id
from jobstore.kit.tables import Tenant
from jobstore.tenants.quotas import limits_of, usage_of

router = APIRouter(prefix="/tenants", tags=["keys"], dependencies=[Operator])
usage_router = APIRouter(tags=["keys"])

Count = Annotated[int, Field(strict=True, ge=0, le=2**53)] | None


class TenantRequest(Strict):
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$", description="Lower case; what people call the tenant")


class LimitsRequest(Strict):
    """What differs for this tenant; a limit that is absent or null is that of the settings."""

    storage_bytes: Count = None
    queued_jobs: Count = None
    running_jobs: Count = None
    generate_per_minute: Count = None


@router.post("", status_code=201, dependencies=[Idempotent], responses=errors(400, 409, 413, 415))
def make_tenant(request: TenantRequest, session: Transaction, resources: ResourcesDep, response: Response) -> NewTenantView:
    """Make a tenant with its first admin key, which the answer shows and nothing else ever does."""
    if session.scalar(select(Tenant.id).where(Tenant.name == request.name)) is not None:
        raise ConflictError(f"There is a tenant {request.name!r} already.", code="tenant_exists", param="name")
    tenant = Tenant(id=new_id("ten"), name=request.name)
    session.add(tenant)
    session.flush()
    session.refresh(tenant)
    key = new_key(session, tenant, KeyRequest(name="first", scope="admin"))
    response.headers["location"] = f"/tenants/{tenant.id}"
    created(session, response.headers["location"])
    return NewTenantView.with_key(TenantView.of(tenant, resources.settings), key)


@router.get("", responses=errors(404))
def list_tenants(page: PageQuery, session: Transaction, resources: ResourcesDep) -> Listing[TenantView]:
    """All tenants, newest first."""
    rows, more = page_of(session, select(Tenant), Tenant, page, known=select(Tenant))
    return Listing(data=[TenantView.of(row, resources.settings) for row in rows], has_more=more)


def find_tenant(tenant_id: str, session: Transaction) -> Tenant:
    found = session.get(Tenant, tenant_id) if "\0" not in tenant_id else None
    if found is None:
        raise NotFoundError(f"There is no tenant {tenant_id[:80]!r}.", code="tenant_not_found")
    return found


FoundTenant = Annotated[Tenant, Depends(find_tenant)]


@router.get("/{tenant_id}", responses=errors(404))
def get_tenant(tenant: FoundTenant, resources: ResourcesDep) -> TenantView:
    """One tenant with its limits."""
    return TenantView.of(tenant, resources.settings)


@router.put("/{tenant_id}/limits", responses=errors(400, 404, 413, 415))
def set_limits(tenant: FoundTenant, request: LimitsRequest, resources: ResourcesDep) -> TenantView:
    """Set all limits of a tenant: those given, and the settings' for the others."""
    tenant.limits = request.model_dump(exclude_none=True)
    return TenantView.of(tenant, resources.settings)


@usage_router.get("/usage", responses=errors())
def get_usage(tenant: TenantId, session: Transaction, resources: ResourcesDep) -> UsageView:
    """What your tenant uses, and how much it may."""
    row = session.get_one(Tenant, tenant)
    return UsageView(limits=limits_of(row, resources.settings), usage=usage_of(session, row))
