"""Adapters: the few megabytes that a job trained, as a file; and their deletion."""

from fastapi import APIRouter, Response

from api.adapters.downloads import DOWNLOADS, Format, adapter_answer
from api.kit.answers import errors
from api.kit.auth import TenantId
from api.kit.deletion import delete_unused_adapter
from api.kit.dependencies import ResourcesDep, Transaction, owned
from jobstore.kit.tables import Adapter

router = APIRouter(prefix="/adapters", tags=["adapters"])


@router.get("/{adapter_id}/download", response_class=Response, responses=DOWNLOADS | errors(404, 409))
def download_adapter(
    adapter_id: str, tenant: TenantId, session: Transaction, resources: ResourcesDep, file_format: Format = "difffit"
) -> Response:
    """The adapter as a file. What is not the job's own file is made at the first request, which is answered with 202."""
    return adapter_answer(session, owned(session, Adapter, adapter_id, tenant), file_format, resources.store)


@router.delete("/{adapter_id}", status_code=204, responses=errors(404, 409))
def delete_adapter(adapter_id: str, tenant: TenantId, session: Transaction, resources: ResourcesDep) -> None:
    """Delete the file. Pictures that it made stay."""
    delete_unused_adapter(session, owned(session, Adapter, adapter_id, tenant), resources.store)
