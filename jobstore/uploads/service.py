"""Uploads that arrive in pieces: what has arrived is kept in parts in the object store, and a row says how far it goes.

Where the store signs URLs a client may put the whole file there at once: its one part is called `WHOLE`.

A part counts from the transaction that moves the row's offset over it. Where two requests continue one upload, one of them
moves it, and the part of the other is nobody's.
"""

import secrets
from datetime import timedelta

from sqlalchemy import Select, delete, func, select, update
from sqlalchemy.orm import Session

from difffit_core.errors import DatasetError
from jobstore.kit.errors import ConflictError
from jobstore.kit.ids import new_id
from jobstore.kit.tables import Dataset, Upload

EXPIRES_AFTER = timedelta(hours=24)  # without anything that arrives
WHOLE = "whole"
SIGNED_BYTES = 5 * 1024**3  # the most that S3 takes in one request
# Files of which one is a dataset; the longer ends of names first.
WHOLE_DATASETS: tuple[str, ...] = (
    ".tar.gz",
    ".tar.bz2",
    ".tar.xz",
    ".tar.zst",
    ".tgz",
    ".tbz2",
    ".txz",
    ".tzst",
    ".zip",
    ".tar",
)
WHOLE_DATASETS += (".json.gz", ".jsonl.gz", ".json", ".jsonl")
OTHER_ARCHIVES = (".7z", ".rar", ".cab", ".lz", ".lz4", ".zipx", ".z", ".tar.lzma")  # which are not read


def unsupported_archive(file_name: str) -> DatasetError:
    """A file's name says that it cannot be read, before its bytes are sent."""
    packer = file_name.rpartition(".")[2]
    return DatasetError(
        f"Archives of the kind .{packer} are not read. Send .zip, .tar, .tar.gz, .tar.bz2, .tar.xz or .tar.zst.",
        code="unsupported_archive",
        param="file",
    )


def upload_prefix(upload_id: str) -> str:
    """Where the parts of an upload lie, also when they are a dataset's."""
    return f"uploads/{upload_id}/"


def upload_keys(dataset: Dataset) -> list[str]:
    """The objects that hold a dataset's upload, in order."""
    return [dataset.upload_key + name for name in ([""] if dataset.upload_parts is None else dataset.upload_parts)]


def part_name(offset: int) -> str:
    """A name that no other part has."""
    return f"{offset:020d}-{secrets.token_hex(4)}"


def begin(session: Session, tenant_id: str, length: int, name: str, file_name: str | None = None) -> Upload:
    row = Upload(id=new_id("upl"), tenant_id=tenant_id, name=name, file_name=file_name, length=length, offset=0, parts=[])
    row.expires_at = session.scalars(select(func.now() + EXPIRES_AFTER)).one()
    session.add(row)
    session.flush()
    return row


def advance(session: Session, upload_id: str, offset: int, part: str, size: int) -> Upload:
    """Count a part that begins at `offset`. Raises ConflictError (`offset_mismatch`) where the upload has gone on."""
    moved: Upload | None = session.scalar(
        update(Upload)
        .where(Upload.id == upload_id, Upload.offset == offset)
        .values(offset=offset + size, parts=Upload.parts.concat([part]), expires_at=func.now() + EXPIRES_AFTER)
        .returning(Upload)
    )
    if moved is None:
        raise offset_mismatch(offset)
    return moved


def offset_mismatch(offset: int) -> ConflictError:
    return ConflictError(
        f"The upload does not go on at byte {offset}. Ask with HEAD how far it goes.",
        code="offset_mismatch",
        param="Upload-Offset",
    )


def make_dataset(session: Session, upload: Upload, format: str | None = None) -> Dataset:
    """A dataset of the upload's bytes, in place of the upload. Raises ConflictError (`upload_unfinished`)."""
    session.refresh(upload, with_for_update=True)
    if upload.offset < upload.length:
        raise ConflictError(
            f"{upload.offset} of {upload.length} bytes have arrived. Send the rest first.", code="upload_unfinished"
        )
    dataset = Dataset(id=new_id("ds"), tenant_id=upload.tenant_id, name=upload.name, status="checking", format=format)
    dataset.upload_name = upload.file_name
    dataset.upload_key, dataset.upload_parts, dataset.upload_bytes = upload_prefix(upload.id), upload.parts, upload.length
    session.add(dataset)
    session.delete(upload)
    session.flush()
    return dataset


def datasets_of(upload_id: str) -> Select[Dataset]:
    """The dataset that was made of an upload, unless it is deleted."""
    return select(Dataset).where(Dataset.upload_key == upload_prefix(upload_id), Dataset.status != "deleted")


def forget_expired(session: Session) -> None:
    """Delete uploads that nobody continues; the collection of garbage finds their parts."""
    session.execute(delete(Upload).where(Upload.expires_at < func.now()))
