"""Adapters in other formats: the row is written and a worker woken at the first request; later ones find what it made."""

from datetime import timedelta
from functools import partial
from typing import Literal

from fastapi.responses import JSONResponse, Response
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from api.adapters.schemas import ExportView
from api.kit.dependencies import after_commit
from api.kit.downloads import FileAnswer, attachment
from api.kit.errors import UnavailableError
from jobstore.kit.dispatch import wake
from jobstore.kit.errors import ConflictError
from jobstore.kit.ids import new_id
from jobstore.kit.objects import ObjectStore
from jobstore.kit.tables import Adapter, Export

ExportFormat = Literal["peft", "merged"]

RETRY_AFTER = 5  # seconds until a client should ask again
FAILURE_SECONDS = 60  # so long a failure is the answer; then a request tries again
ACCIDENTS = {"worker_lost", "export_failed"}  # other failures lie in the adapter


def export_answer(session: Session, adapter: Adapter, export_format: ExportFormat, store: ObjectStore) -> Response:
    """The archive, or 202 while it is being made.

    Raises ConflictError where the adapter has no such form, UnavailableError where making it has just failed.
    """
    export = find_or_queue(session, adapter, export_format)
    if export.status == "succeeded" and export.object_key is not None:
        headers = attachment(f"{adapter.id}.{export_format}.zip")
        return FileAnswer(store, export.object_key, "application/zip", headers, redirects=True)
    if export.status == "failed" and export.error is not None:
        kind = UnavailableError if export.error["code"] in ACCIDENTS else ConflictError
        raise kind(export.error["message"], code=export.error["code"], param=export.error["param"])
    view = ExportView.of(export)
    return JSONResponse(view.model_dump(mode="json"), 202, {"retry-after": str(RETRY_AFTER)})


def find_or_queue(session: Session, adapter: Adapter, export_format: ExportFormat) -> Export:
    """The export of the adapter in that format: one row, however many ask at once."""
    columns = {"id": new_id("exp"), "tenant_id": adapter.tenant_id, "adapter_id": adapter.id, "format": export_format}
    new = insert(Export).values(**columns, status="queued", attempt=0).on_conflict_do_nothing().returning(Export.id)
    fresh = session.scalar(new) is not None
    found = select(Export).where(Export.adapter_id == adapter.id, Export.format == export_format)
    export = session.execute(found.with_for_update()).scalar_one()
    old = func.now() - timedelta(seconds=FAILURE_SECONDS)
    again = export.status == "failed" and session.scalar(select(old > export.finished_at))
    if again:
        export.status, export.attempt, export.error, export.finished_at = "queued", 0, None, None
    if fresh or again:
        after_commit(session, partial(wake, "export", export.id))
    return export
