"""Adapters: the few megabytes that a job trained, as a file; and their deletion."""

from typing import Annotated

from fastapi import APIRouter, Query, Response
from fastapi.responses import RedirectResponse, StreamingResponse

from api.auth import TenantId
from api.deletion import delete_unused_adapter
from api.dependencies import ResourcesDep, Transaction, owned
from api.schemas import errors, file_answer
from difffit_core.errors import AdapterError
from jobstore.objects import ObjectStore
from jobstore.tables import Adapter

router = APIRouter(prefix="/adapters", tags=["adapters"])

ADAPTER_FILE = file_answer("application/octet-stream", "A safetensors file")
ADAPTER_FILE |= {307: {"description": "The file is at `Location`, for some minutes and without a key"}}


@router.get("/{adapter_id}/download", response_class=Response, responses=ADAPTER_FILE | errors(404, 503))
def download_adapter(
    adapter_id: str,
    tenant: TenantId,
    session: Transaction,
    resources: ResourcesDep,
    file_format: Annotated[str, Query(alias="format", description="`difffit` is the only one yet")] = "difffit",
) -> Response:
    """The adapter as one safetensors file; its header names the base model, the dataset and the settings."""
    adapter = owned(session, Adapter, adapter_id, tenant)
    if file_format != "difffit":
        raise AdapterError("Adapters are offered as format=difffit only.", code="unsupported_format", param="format")
    return adapter_file(adapter, resources.store)


@router.delete("/{adapter_id}", status_code=204, responses=errors(404, 409))
def delete_adapter(adapter_id: str, tenant: TenantId, session: Transaction, resources: ResourcesDep) -> None:
    """Delete the file. Pictures that it made stay."""
    delete_unused_adapter(session, owned(session, Adapter, adapter_id, tenant), resources.store)


def adapter_file(adapter: Adapter, store: ObjectStore) -> Response:
    signed = store.signed_url(adapter.object_key)
    if signed is not None:
        return RedirectResponse(signed, headers={"cache-control": "no-store"})
    headers = {
        "content-disposition": f'attachment; filename="{adapter.id}.safetensors"',
        "content-length": str(adapter.bytes),
        "etag": f'"{adapter.sha256}"',
    }
    return StreamingResponse(store.stream(adapter.object_key), media_type="application/octet-stream", headers=headers)
