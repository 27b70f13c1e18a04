"""The base models that the operator offers."""

from fastapi import APIRouter

from api.kit.answers import Listing, errors
from api.kit.auth import TenantId
from api.kit.dependencies import ResourcesDep
from api.models.schemas import ModelView

router = APIRouter(prefix="/models", tags=["models"])


@router.get("", responses=errors())
def list_models(_tenant: TenantId, resources: ResourcesDep) -> Listing[ModelView]:
    """Every base model, on one page."""
    return Listing(data=[ModelView.of(entry) for entry in resources.catalog.values()], has_more=False)
