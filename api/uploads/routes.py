"""Resumable uploads by the tus protocol: whatever cuts one short, it goes on where it was; a finished one becomes a dataset."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from sqlalchemy import Select
from sqlalchemy.orm import Session
from starlette.requests import ClientDisconnect

from api.datasets.schemas import DatasetView, SignedUpload, UploadView
from api.kit.answers import Answers, errors
from api.kit.auth import TenantId, authenticate
from api.kit.dependencies import Resources, ResourcesDep, Transaction, after_commit, discard, not_found, owned, owned_rows
from api.kit.errors import BadRequestError, MediaTypeError, RequestTimeoutError, TooLargeError
from api.kit.idempotency import Idempotent, created
from api.uploads import tus
from difffit_core.errors import SpecError
from jobstore.datasets.formats import Format
from jobstore.kit.dispatch import wake
from jobstore.kit.errors import ConflictError
from jobstore.kit.objects import SIGNED_FOR, ObjectStore
from jobstore.kit.plain_text import is_plain
from jobstore.kit.tables import Dataset, Upload
from jobstore.tenants.quotas import check_storage
from jobstore.uploads import service as uploads

router = APIRouter(prefix="/uploads", tags=["datasets"], dependencies=[Depends(authenticate), tus.Version])
abilities = APIRouter(prefix="/uploads", tags=["datasets"])

CONTENT_TYPE = "application/offset+octet-stream"
PART_BYTES = 32 * 1024**2  # after so many bytes what has arrived is safe from a crash of this process
BODY = {"requestBody": {"required": True, "content": {CONTENT_TYPE: {"schema": {"type": "string", "format": "binary"}}}}}
NOTHING: Answers = {204: {"description": "Done; the headers say how far the upload goes"}}


@abilities.options("", status_code=204, responses=errors())
async def show_abilities(_tenant: TenantId, resources: ResourcesDep, response: Response) -> None:
    """What of the tus protocol this server speaks."""
    response.headers["tus-extension"] = tus.EXTENSIONS
    response.headers["tus-checksum-algorithm"] = ",".join(tus.ALGORITHMS)
    response.headers["tus-max-size"] = str(resources.settings.max_upload_bytes)


@router.post("", status_code=201, dependencies=[Idempotent], responses=errors(400, 409, 412, 413, 429))
def begin_upload(
    tenant: TenantId,
    session: Transaction,
    resources: ResourcesDep,
    response: Response,
    length: tus.Length,
    metadata: tus.Metadata = "",
) -> UploadView:
    """Begin an upload of `Upload-Length` bytes; they count for the tenant's storage from now on."""
    largest = resources.settings.max_upload_bytes
    if length > largest:
        raise TooLargeError(f"An upload has {largest} bytes at most.", code="upload_too_large", param="Upload-Length")
    check_storage(session, tenant, resources.settings, length)
    described = tus.read_metadata(metadata)
    row = uploads.begin(session, tenant, length, _dataset_name(described), _file_name(described))
    response.headers["location"] = f"/uploads/{row.id}"
    created(session, response.headers["location"])
    _tell(response, row)
    return UploadView.of(row)


def _file_name(metadata: dict[str, str]) -> str | None:
    """The file's name without its folder; raises DatasetError where it says that the file cannot be read."""
    base = metadata.get("filename", "").replace("\\", "/").rpartition("/")[2]
    name = "".join(filter(is_plain, base))[-tus.MAX_NAME :]
    if name.lower().endswith(uploads.OTHER_ARCHIVES):
        raise uploads.unsupported_archive(name)
    return name or None


def _dataset_name(metadata: dict[str, str]) -> str:
    """`name`, else the file's name without its suffix."""
    name = metadata.get("name") or metadata.get("filename", "").rpartition("/")[2]
    for suffix in uploads.WHOLE_DATASETS:
        name = name.removesuffix(suffix)
    if len(name) > tus.MAX_NAME or not is_plain(name):
        raise SpecError(
            f"The name must be {tus.MAX_NAME} characters of plain text at most.", code="invalid_value", param="name"
        )
    return name or "dataset"


def _tell(response: Response, row: Upload) -> None:
    response.headers["upload-offset"], response.headers["upload-length"] = str(row.offset), str(row.length)
    response.headers["upload-expires"] = row.expires_at.strftime("%a, %d %b %Y %H:%M:%S GMT")
    response.headers["cache-control"] = "no-store"


def find_upload(upload_id: str, tenant: TenantId, session: Transaction) -> Upload:
    return owned(session, Upload, upload_id, tenant)


FoundUpload = Annotated[Upload, Depends(find_upload)]


@router.get("/{upload_id}", responses=errors(404, 412))
def get_upload(upload: FoundUpload, response: Response) -> UploadView:
    """How far an upload goes, as JSON."""
    _tell(response, upload)
    return UploadView.of(upload)


@router.head("/{upload_id}", responses=errors(404, 412))
def look_at_upload(upload: FoundUpload, response: Response) -> None:
    """How far an upload goes, in `Upload-Offset`."""
    _tell(response, upload)


@router.patch(
    "/{upload_id}", status_code=204, responses=NOTHING | errors(400, 404, 409, 412, 413, 415, 460), openapi_extra=BODY
)
async def continue_upload(
    upload_id: str,
    request: Request,
    tenant: TenantId,
    resources: ResourcesDep,
    response: Response,
    offset: tus.Offset,
    content_type: Annotated[str, Header()] = "",
    upload_checksum: Annotated[str, Header(description="`sha256 <base64>` of this part: it is kept whole or not at all")] = "",
) -> None:
    """Send the bytes from `Upload-Offset` on. Without a checksum, what has arrived when the connection is cut is kept."""
    if content_type != CONTENT_TYPE:
        raise MediaTypeError(f"Send the bytes as `{CONTENT_TYPE}`.", param="content-type")
    checksum = tus.Checksum(upload_checksum) if upload_checksum else None
    row = await resources.turns.run(_look_up, resources, upload_id, tenant)
    if row.offset != offset:
        raise uploads.offset_mismatch(offset)
    body = _Body(request, row.length - offset, checksum)
    while not body.ended:
        row = await _store_part(resources, row, body, whole=checksum is not None)
    if body.cut:
        raise BadRequestError("The connection was cut; what had arrived is kept.", code="client_disconnected")
    _tell(response, row)


def _look_up(resources: Resources, upload_id: str, tenant: str) -> Upload:
    with resources.sessions() as session:
        return owned(session, Upload, upload_id, tenant)


async def _store_part(resources: Resources, row: Upload, body: "_Body", whole: bool) -> Upload:
    """Store the next bytes and count them; the row as it is then."""
    name = uploads.part_name(row.offset)
    key = uploads.upload_prefix(row.id) + name
    size = await resources.store.put_stream(key, body.part(row.length + 1 if whole else PART_BYTES))
    try:
        body.check()
        if size:
            return await resources.turns.run(_advance, resources, row, name, size)
    except Exception:
        await resources.in_store(resources.store.delete, key)
        raise
    await resources.in_store(resources.store.delete, key)
    return row


def _advance(resources: Resources, row: Upload, name: str, size: int) -> Upload:
    with resources.transaction() as session:
        return uploads.advance(session, row.id, row.offset, name, size)


class _Body:
    """The body of one request, cut into parts. `ended` is set after its last byte, or where the connection was `cut`."""

    def __init__(self, request: Request, most: int, checksum: tus.Checksum | None) -> None:
        self.ended = self.cut = False
        self._chunks, self._left, self._checksum = request.stream(), most, checksum

    async def part(self, most: int) -> AsyncIterator[bytes]:
        """The next bytes, about `most` of them; raises TooLargeError for more than the upload has."""
        given = 0
        try:
            while given < most and not self.ended:
                chunk = await anext(self._chunks, None)
                self.ended = chunk is None
                if chunk:
                    given += len(chunk)
                    self._count(chunk)
                    yield chunk
        except (ClientDisconnect, RequestTimeoutError):
            self.ended = self.cut = True

    def _count(self, chunk: bytes) -> None:
        self._left -= len(chunk)
        if self._left < 0:
            raise TooLargeError("These are more bytes than `Upload-Length` announced.", code="upload_too_large")
        if self._checksum is not None:
            self._checksum.update(chunk)

    def check(self) -> None:
        """Raises ChecksumError where the whole body has a checksum, and it is another."""
        if self._checksum is not None:
            self._checksum.check()


@router.post("/{upload_id}/signed-url", responses=errors(404, 409, 412, 413))
def sign_upload(upload: FoundUpload, resources: ResourcesDep, response: Response) -> SignedUpload:
    """Where to put the whole file at once, straight into the bucket, instead of sending parts. Not every server offers it."""
    if upload.offset:
        raise uploads.offset_mismatch(0)
    if upload.length > uploads.SIGNED_BYTES:
        raise TooLargeError(f"More than {uploads.SIGNED_BYTES} bytes go in parts only.", code="upload_too_large")
    expires_at = datetime.now(UTC) + SIGNED_FOR
    url = resources.store.signed_url(uploads.upload_prefix(upload.id) + uploads.WHOLE, "PUT")
    if url is None:
        raise ConflictError("This server takes the bytes itself: send them with PATCH.", code="signed_uploads_off")
    response.headers["cache-control"] = "no-store"
    return SignedUpload(url=url, expires_at=expires_at)


@router.delete("/{upload_id}", status_code=204, responses=errors(404, 412))
def delete_upload(upload: FoundUpload, session: Transaction, resources: ResourcesDep) -> None:
    """Give an upload up."""
    session.delete(upload)
    prefix = uploads.upload_prefix(upload.id)
    names = [*upload.parts, uploads.WHOLE] if resources.store.signs else upload.parts
    discard(session, resources.store, [prefix + name for name in names])


@router.post("/{upload_id}/dataset", status_code=202, dependencies=[Idempotent], responses=errors(404, 409, 412))
async def make_dataset(
    upload_id: str,
    tenant: TenantId,
    resources: ResourcesDep,
    response: Response,
    format: Annotated[Format | None, Query(description="The layout of the archive; recognised where it is left out")] = None,
) -> DatasetView:
    """Make a dataset of a finished upload: an archive, as `POST /datasets` takes it. The upload itself is gone then.

    The same request again is answered with the dataset that the first one made.
    """
    if "\0" in upload_id:  # PostgreSQL knows no such text
        raise not_found(Upload, upload_id, None)
    whole, size = uploads.upload_prefix(upload_id) + uploads.WHOLE, None
    if resources.store.signs and await resources.turns.run(_has_upload, resources, upload_id, tenant):
        size = await resources.in_store(resources.store.size, whole)
    try:
        view = await resources.turns.run(_make_dataset, resources, upload_id, tenant, size, format)
    except SizeMismatch:
        await resources.in_store(resources.store.delete, whole)
        raise
    response.headers["location"] = f"/datasets/{view.id}"
    return view


class SizeMismatch(ConflictError):
    """The bytes in the bucket are not those that were announced."""

    code = "upload_size_mismatch"


def _has_upload(resources: Resources, upload_id: str, tenant: str) -> bool:
    with resources.reading() as session:
        return session.scalar(_upload(upload_id, tenant)) is not None


def _upload(upload_id: str, tenant: str) -> Select[Upload]:
    return owned_rows(Upload, tenant).where(Upload.id == upload_id)


def _make_dataset(resources: Resources, upload_id: str, tenant: str, size: int | None, format: Format | None) -> DatasetView:
    with resources.transaction() as session:
        upload = session.scalar(_upload(upload_id, tenant).with_for_update())
        if upload is None:
            dataset = session.scalar(uploads.datasets_of(upload_id).where(Dataset.tenant_id == tenant))
            if dataset is None:
                raise not_found(Upload, upload_id, None)
            return DatasetView.of(dataset)
        if size is not None:
            _count_whole(session, upload, size, resources.store)
        dataset = uploads.make_dataset(session, upload, format)
        created(session, f"/datasets/{dataset.id}")
        after_commit(session, partial(wake, "check_dataset", dataset.id))
        session.refresh(dataset)
        return DatasetView.of(dataset)


def _count_whole(session: Session, upload: Upload, size: int, store: ObjectStore) -> None:
    """Count the bytes that the client has put straight into the bucket, if they are as many as were announced."""
    if upload.offset:  # what counts came in parts
        discard(session, store, [uploads.upload_prefix(upload.id) + uploads.WHOLE])
    elif size == upload.length:
        uploads.advance(session, upload.id, 0, uploads.WHOLE, size)
    else:
        raise SizeMismatch(
            f"{size} bytes lie in the bucket, {upload.length} were announced; they were deleted. Put the file once more."
        )
