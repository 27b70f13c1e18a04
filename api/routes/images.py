"""Pictures by their id: those of generations and the sample grids of jobs."""

from fastapi import APIRouter, Response

from api.auth import TenantId
from api.dependencies import ResourcesDep, Transaction, owned
from api.schemas import errors, file_answer
from jobstore.tables import Image

router = APIRouter(prefix="/images", tags=["images"])


@router.get(
    "/{image_id}",
    response_class=Response,
    responses=file_answer("image/png", "The picture") | errors(404),
)
def get_image(image_id: str, tenant: TenantId, session: Transaction, resources: ResourcesDep) -> Response:
    """The PNG, with the parameters that made it in the text chunk `difffit`."""
    image = owned(session, Image, image_id, tenant)
    headers = {"cache-control": "private, max-age=31536000, immutable"}
    return Response(resources.store.get_bytes(image.object_key), media_type="image/png", headers=headers)
