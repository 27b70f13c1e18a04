"""An adapter as an answer, in the format that is asked for."""

from typing import Annotated, Literal

from fastapi import Query, Response
from sqlalchemy.orm import Session

from api.adapters.exports import export_answer
from api.adapters.schemas import ExportView
from api.kit.answers import REDIRECTED, Answers
from api.kit.downloads import FileAnswer, attachment
from jobstore.kit.objects import ObjectStore
from jobstore.kit.tables import Adapter

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


def adapter_answer(
    session: Session, adapter: Adapter, file_format: Literal["difffit", "peft", "merged"], store: ObjectStore
) -> Response:
    """The adapter in the format; raises what `export_answer` raises."""
    if file_format != "difffit":
        return export_answer(session, adapter, file_format, store)
    headers = attachment(f"{adapter.id}.safetensors") | {"etag": f'"{adapter.sha256}"'}
    return FileAnswer(store, adapter.object_key, "application/octet-stream", headers, redirects=True)
