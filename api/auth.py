"""Bearer keys: a key opens one tenant, and a request sees that tenant's rows only."""

from typing import Annotated

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from api.dependencies import ResourcesDep
from api.errors import AuthenticationError
from jobstore.keys import find_tenant

bearer = HTTPBearer(auto_error=False, description="An API key of this server")


def authenticate(resources: ResourcesDep, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> str:
    """The tenant's id. The session is closed here: a request that waits for a thread must hold no connection."""
    if credentials is None:
        raise AuthenticationError("Send an API key: `Authorization: Bearer <key>`.", code="missing_key")
    with resources.sessions() as session:
        tenant = find_tenant(session, credentials.credentials)
    if tenant is None:
        raise AuthenticationError("This API key opens nothing. Look for a typing error, or ask the operator for a new one.")
    return tenant.id


TenantId = Annotated[str, Depends(authenticate)]
