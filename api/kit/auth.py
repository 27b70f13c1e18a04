"""Bearer keys: a key opens one tenant within its scope, and a request sees that tenant's rows only."""

from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.datastructures import Headers

from api.kit.dependencies import Resources, ResourcesDep
from api.kit.errors import AuthenticationError, ForbiddenError
from api.kit.keyring import KeyWatch
from jobstore.tenants.keys import OPERATOR, OpenedKey, Scope

bearer = HTTPBearer(auto_error=False, description="An API key of this server")

READING = frozenset({"GET", "HEAD", "OPTIONS"})  # methods that a key with the scope `read` may use


async def authenticate(
    request: Request, resources: ResourcesDep, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
) -> OpenedKey:
    """The caller's key. Raises AuthenticationError, and ForbiddenError where its scope does not cover the method."""
    if credentials is None:
        raise AuthenticationError("Send an API key: `Authorization: Bearer <key>`.", code="missing_key")
    key = await resources.keyring.open(credentials.credentials)
    if key is None:
        raise AuthenticationError("This API key opens nothing. Look for a typing error, or ask the operator for a new one.")
    if key.state != "valid":
        happened = "has expired" if key.state == "expired" else "was revoked"
        raise AuthenticationError(
            f"This API key {happened}. Ask an admin of your tenant for a new one.", code=f"key_{key.state}"
        )
    _require(key, "read" if request.method in READING else "write")
    return key


def _require(key: OpenedKey, scope: Scope) -> None:
    if not key.allows(scope):
        raise ForbiddenError(f"This needs a key with the scope `{scope}`; the scope of yours is `{key.scope}`.")


async def opened_key(resources: Resources, headers: Headers) -> OpenedKey | None:
    """The valid key of a request, for middleware; the route itself refuses any other."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    opened = await resources.keyring.open(key.strip()) if scheme.lower() == "bearer" else None
    return opened if opened is not None and opened.state == "valid" else None


CallerKey = Annotated[OpenedKey, Depends(authenticate)]


async def watch_key(
    key: CallerKey, resources: ResourcesDep, credentials: Annotated[HTTPAuthorizationCredentials, Depends(bearer)]
) -> KeyWatch:
    return KeyWatch(resources.keyring, credentials.credentials, key)


async def tenant_of(key: CallerKey) -> str:
    return key.tenant_id


async def admin_tenant_of(key: CallerKey) -> str:
    _require(key, "admin")
    return key.tenant_id


async def require_operator(key: CallerKey) -> None:
    _require(key, "admin")
    if key.tenant != OPERATOR:
        raise ForbiddenError(f"Tenants are managed with an admin key of the tenant `{OPERATOR}`.", code="operator_only")


TenantId = Annotated[str, Depends(tenant_of)]
WatchedKey = Annotated[KeyWatch, Depends(watch_key)]
AdminTenantId = Annotated[str, Depends(admin_tenant_of)]
Operator = Depends(require_operator)
