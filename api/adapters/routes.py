"""Adapters: the few megabytes that a job trained, as a file; and their deletion."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response
from sqlalchemy.orm import Session

from api.adapters.exports import export_answer
from api.adapters.schemas import ExportView
from api.kit.answers import REDIRECTED, Answers, errors
from api.kit.auth import TenantId
from api.kit.deletion import delete_unused_adapter
from api.kit.dependencies import ResourcesDep, Transaction, owned
from api.kit.downloads import FileAnswer, attachment
from jobstore.kit.objects import ObjectStore
from jobstore.kit.tables import Adapter

router = APIRouter(prefix="/adapters", tags=["adapters"])

DOWNLOADS: Answers = {
    200: {
        "content": {"application/octet-stream": {}, "application/zip": {}},
        "description": "A safetensors file, or a zip of a folder",
    },
    **REDIRECTED,
    202: {"model": ExportView, "description": "Not made yet: ask again after `Retry-After` seconds"},
}
Format = Annotated[
    Literal["difffit", "peft", "merged"],
    Query(
        alias="format",
        description="`difffit`: the safetensors file of the job. `peft`: a folder for `PeftModel.from_pretrained`. "
        "`merged`: the whole model with the adapter in it, for `from_pretrained`",
    ),
]


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


def adapter_answer(
    session: Session, adapter: Adapter, file_format: Literal["difffit", "peft", "merged"], store: ObjectStore
) -> Response:
    """The adapter in the format; raises what `export_answer` raises."""
    if file_format != "difffit":
        return export_answer(session, adapter, file_format, store)
    headers = attachment(f"{adapter.id}.safetensors") | {"etag": f'"{adapter.sha256}"'}
    return FileAnswer(store, adapter.object_key, "application/octet-stream", headers, redirects=True)
