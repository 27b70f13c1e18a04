"""Pictures by their id: those of generations, and the samples of jobs, which are texts for language models."""

from fastapi import APIRouter, Response

from api.generations.image_schemas import media_type_of
from api.kit.answers import REDIRECTED, errors, file_answer
from api.kit.auth import TenantId
from api.kit.dependencies import ResourcesDep, Transaction, owned
from api.kit.downloads import FileAnswer
from jobstore.kit.tables import Image

router = APIRouter(prefix="/images", tags=["images"])


@router.get(
    "/{image_id}",
    response_class=Response,
    responses=file_answer("image/png", "The picture, or the texts of a language model") | REDIRECTED | errors(404),
)
def get_image(image_id: str, tenant: TenantId, session: Transaction, resources: ResourcesDep) -> Response:
    """The PNG, with the parameters that made it in the text chunk `difffit`."""
    image = owned(session, Image, image_id, tenant)
    # A sample is made anew where its job is done again from an earlier checkpoint.
    lasting = "no-cache" if image.generation_id is None else "max-age=31536000, immutable"
    headers = {"cache-control": f"private, {lasting}"}
    return FileAnswer(resources.store, image.object_key, media_type_of(image), headers, redirects=True)
