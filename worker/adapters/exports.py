"""Turns an adapter into another format in a child process, so that the memory of a whole model comes back."""

import json
import logging
import sys
from pathlib import Path

from difffit_core.errors import AdapterError, DiffFitError
from difffit_core.spec.catalog import get_base_model, load_catalog
from jobstore.kit.settings import get_settings
from jobstore.kit.tables import Adapter, Export
from worker.kit.child import running
from worker.kit.lease import Lease
from worker.kit.leased_work import finish, work_on
from worker.kit.outages import persist
from worker.kit.runtime import child_environment, objects, scratch_folder, sessions

logger = logging.getLogger(__name__)

EXPORTER = [sys.executable, "-m", "difffit_core.adapters.export", "--die-with-parent"]
CHECK_SECONDS = 0.2  # between two looks at the child and at the lease


def run_export(export_id: str) -> None:
    """Claim the export and bring it to `succeeded` or `failed`; does nothing where another worker has it."""
    work_on(Export, export_id, _bring_to_end)


def _bring_to_end(export: Export, lease: Lease) -> None:
    settings = get_settings()
    with sessions()() as session:
        adapter = session.get_one(Adapter, export.adapter_id)
    with scratch_folder(export.id, lease.token) as folder:
        try:
            base = get_base_model(load_catalog(settings.models, settings.models_dir), adapter.base_model)
            persist(lease, lambda: objects().get_to_file(adapter.object_key, folder / "adapter.safetensors"))
            asked = {"format": export.format, "base": base.model_dump(mode="json")}
            (folder / "export.json").write_text(json.dumps(asked))
            _convert(folder, lease)
        except DiffFitError as error:
            finish(lease, "failed", error=error.reason())
            return
        archive, key = folder / "export.zip", f"adapters/{adapter.id}/{lease.token}.{export.format}.zip"
        persist(lease, lambda: objects().put_file(key, archive))
        finish(lease, "succeeded", object_key=key, bytes=archive.stat().st_size)


def _convert(folder: Path, lease: Lease) -> None:
    """Write `export.zip`; raises AdapterError with the child's reason where it failed, LeaseLost or Stopping meanwhile."""
    with running([*EXPORTER, str(folder)], folder / "log", child_environment()) as child:
        while child.exit_status() is None:
            lease.check()
            lease.lost.wait(CHECK_SECONDS)
    if child.exit_status() == 0:
        return
    if (folder / "error.json").exists():
        error = json.loads((folder / "error.json").read_text())
        raise AdapterError(error["message"], code=error["code"], param=error["param"])
    logger.error("The exporter of %s failed:\n%s", lease.row_id, (folder / "log").read_text(errors="replace"))
    raise AdapterError(
        f"The conversion ended with status {child.exit_status()}; the worker's log says more.", code="export_failed"
    )
