"""Turns an adapter into another format in a child process, so that the memory of a whole model comes back."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from difffit_core.base_models import get_base_model, load_catalog
from difffit_core.errors import AdapterError, DiffFitError
from jobstore import leases
from jobstore.settings import get_settings
from jobstore.tables import Adapter, Export
from worker.child import NICENESS
from worker.lease import Lease, LeaseLost, Stopping
from worker.outages import persist
from worker.runtime import child_environment, objects, scratch_folder, sessions

logger = logging.getLogger(__name__)

EXPORTER = [sys.executable, "-m", "difffit_core.exports", "--die-with-parent"]
CHECK_SECONDS = 0.2  # between two looks at the child and at the lease


def run_export(export_id: str) -> None:
    """Claim the export and bring it to `succeeded` or `failed`; does nothing where another worker has it."""
    settings = get_settings()
    with sessions().begin() as session:
        token = leases.claim(session, Export, export_id, settings.lease_seconds)
        export = session.get(Export, export_id)
        adapter = None if export is None else session.get(Adapter, export.adapter_id)
    if token is None or export is None or adapter is None:
        return
    with Lease(sessions(), Export, export_id, token, settings) as lease, scratch_folder(export_id, token) as folder:
        try:
            _bring_to_end(export, adapter, lease, folder)
        except LeaseLost:
            logger.warning("Lost the lease of %s; another worker makes it", export_id)
        except Stopping:
            lease.expire()


def _bring_to_end(export: Export, adapter: Adapter, lease: Lease, folder: Path) -> None:
    settings = get_settings()
    try:
        base = get_base_model(load_catalog(settings.models, settings.models_dir), adapter.base_model)
        persist(lease, lambda: objects().get_to_file(adapter.object_key, folder / "adapter.safetensors"))
        asked = {"format": export.format, "base": base.model_dump(mode="json")}
        (folder / "export.json").write_text(json.dumps(asked))
        _convert(folder, lease)
    except DiffFitError as error:
        _finish(lease, "failed", error={"code": error.code, "message": error.message, "param": error.param})
        return
    archive, key = folder / "export.zip", f"adapters/{adapter.id}/{lease.token}.{export.format}.zip"
    persist(lease, lambda: objects().put_file(key, archive))
    _finish(lease, "succeeded", object_key=key, bytes=archive.stat().st_size)


def _convert(folder: Path, lease: Lease) -> None:
    """Write `export.zip`; raises AdapterError with the child's reason where it failed, LeaseLost or Stopping meanwhile."""
    with (folder / "log").open("wb") as log:
        child = subprocess.Popen(
            [*EXPORTER, str(folder)], stdout=log, stderr=subprocess.STDOUT, env=child_environment(), start_new_session=True
        )
    os.setpriority(os.PRIO_PROCESS, child.pid, NICENESS)
    try:
        while child.poll() is None:
            lease.check()
            lease.lost.wait(CHECK_SECONDS)
    finally:
        child.kill()
        child.wait()
    if child.returncode == 0:
        return
    if (folder / "error.json").exists():
        error = json.loads((folder / "error.json").read_text())
        raise AdapterError(error["message"], code=error["code"], param=error["param"])
    logger.error("The exporter of %s failed:\n%s", lease.row_id, (folder / "log").read_text(errors="replace"))
    raise AdapterError(
        f"The conversion ended with status {child.returncode}; the worker's log says more.", code="export_failed"
    )


def _finish(lease: Lease, status: str, **values: Any) -> None:
    def write() -> None:
        with sessions().begin() as session:
            lease.finish(session, status, **values)

    persist(lease, write)
