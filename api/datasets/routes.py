"""Datasets: upload, list, look at, delete."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from sqlalchemy import select

from api.datasets.schemas import DatasetView
from api.datasets.upload_stream import DatasetUpload
from api.kit.answers import Listing, errors, file_answer, long_answer
from api.kit.auth import TenantId
from api.kit.deletion import refuse_while_used
from api.kit.dependencies import Resources, ResourcesDep, Transaction, after_commit, discard, owned, owned_rows
from api.kit.downloads import FileAnswer
from api.kit.idempotency import Idempotent, created
from api.kit.pagination import PageQuery, page_of
from jobstore.datasets import encodings
from jobstore.datasets.formats import FORMATS
from jobstore.jobs.lifecycle import TERMINAL
from jobstore.kit.dispatch import wake
from jobstore.kit.errors import ConflictError, NotFoundError
from jobstore.kit.ids import new_id
from jobstore.kit.tables import Dataset, Evaluation, Job
from jobstore.tenants.quotas import check_storage
from jobstore.uploads.service import upload_keys

router = APIRouter(prefix="/datasets", tags=["datasets"])

UPLOAD_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "name": {"type": "string", "maxLength": 200},
                        "format": {
                            "type": "string",
                            "enum": list(FORMATS),
                            "description": "The layout of the archive; recognised where it is left out",
                        },
                        "label": {
                            "type": "array",
                            "items": {"type": "string"},
                            "description": "The class of the loose images that follow: one for all, or one for each, or none",
                        },
                        "file": {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                            "description": "One .zip, .tar, compressed .tar, .json or .jsonl; or several loose images",
                        },
                    },
                }
            }
        },
    }
}


@router.post(
    "", status_code=202, dependencies=[Idempotent], responses=errors(400, 409, 413, 415, 429), openapi_extra=UPLOAD_FORM
)
async def upload_dataset(request: Request, response: Response, tenant: TenantId, resources: ResourcesDep) -> DatasetView:
    """Upload an archive of a known `format`, or JSON with texts, or loose images, with or without their `label`.

    The answer comes when the upload is stored; what it holds is checked in the background, see `status` and `report`.
    """
    settings, dataset_id = resources.settings, new_id("ds")
    key = f"datasets/{dataset_id}/upload"
    free = await resources.turns.run(_free_bytes, resources, tenant)
    upload = DatasetUpload(request, settings.max_upload_bytes, free, settings.max_archive_files, resources.lane)
    size = await resources.store.put_stream(key, upload.content())
    dataset = Dataset(id=dataset_id, tenant_id=tenant, name=upload.name, status="checking", format=upload.format, attempt=0)
    dataset.upload_key, dataset.upload_bytes, dataset.upload_name = key, size, upload.file_name
    try:
        view = await resources.turns.run(_record, resources, dataset)
    except Exception:
        await resources.in_store(resources.store.delete, key)
        raise
    response.headers["location"] = f"/datasets/{dataset_id}"
    return view


def _free_bytes(resources: Resources, tenant: str) -> int:
    with resources.transaction() as session:
        return 1 + check_storage(session, tenant, resources.settings, 1)


def _record(resources: Resources, dataset: Dataset) -> DatasetView:
    with resources.transaction() as session:
        check_storage(session, dataset.tenant_id, resources.settings, dataset.upload_bytes)
        session.add(dataset)
        created(session, f"/datasets/{dataset.id}")
        session.flush()
        after_commit(session, partial(wake, "check_dataset", dataset.id))
        return DatasetView.of(dataset)


@router.get("", response_model=Listing[DatasetView], responses=errors(404))
def list_datasets(page: PageQuery, tenant: TenantId, session: Transaction) -> Response:
    """The datasets that are not deleted, newest first."""
    all_rows = owned_rows(Dataset, tenant)
    rows, more = page_of(session, all_rows.where(Dataset.status != "deleted"), Dataset, page, known=all_rows)
    return long_answer(map(DatasetView.of, rows), has_more=more)


def find_dataset(dataset_id: str, tenant: TenantId, session: Transaction) -> Dataset:
    return owned(session, Dataset, dataset_id, tenant)


FoundDataset = Annotated[Dataset, Depends(find_dataset)]


@router.get("/{dataset_id}", response_model=DatasetView, responses=errors(404))
def get_dataset(dataset: FoundDataset) -> Response:
    """One dataset; a deleted one answers with its status."""
    return Response(DatasetView.of(dataset).model_dump_json(), media_type="application/json")


@router.get(
    "/{dataset_id}/preview",
    response_class=Response,
    responses=file_answer("image/png", "A grid of images") | errors(404, 409),
)
def get_preview(dataset: FoundDataset, resources: ResourcesDep) -> Response:
    """A contact sheet of the kept images; a dataset of texts has none."""
    if dataset.status == "checking":
        raise ConflictError(
            "The dataset is still being checked. Try again when its status is `ready`.", code="dataset_not_ready"
        )
    if dataset.preview_key is None or dataset.status != "ready":
        reason = "of texts" if dataset.status == "ready" else f"that is {dataset.status}"
        raise NotFoundError(f"A dataset {reason} has no preview.", code="no_preview")
    return FileAnswer(resources.store, dataset.preview_key, "image/png")


@router.delete("/{dataset_id}", status_code=204, responses=errors(404, 409))
def delete_dataset(dataset: FoundDataset, session: Transaction, resources: ResourcesDep) -> None:
    """Delete the files and keep the row, so that finished jobs still say what they were trained on."""
    session.refresh(dataset, with_for_update=True)  # a job that is being created holds the row until it is visible below
    users = session.scalars(select(Job.id).where(Job.dataset_id == dataset.id, Job.status.not_in(TERMINAL)).order_by(Job.id))
    evaluations = select(Evaluation.id).where(Evaluation.dataset_id == dataset.id, Evaluation.finished_at.is_(None))
    refuse_while_used("dataset", [*users, *session.scalars(evaluations)], "Cancel them, or wait for their end")
    dataset.status = "deleted"
    dataset.lease_token = dataset.lease_expires_at = None
    session.flush()
    encoded = encodings.forget_without_dataset(session, dataset.tenant_id)
    files = (*upload_keys(dataset), dataset.content_key, dataset.preview_key, *encoded)
    discard(session, resources.store, filter(None, files))
