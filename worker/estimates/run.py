"""Computes what trainings need, for plans, on the device that this worker has."""

import logging
import tempfile
from pathlib import Path

from sqlalchemy import select

from difffit_core.errors import DatasetError, DiffFitError
from difffit_core.planning.estimate import Rows
from difffit_core.spec.catalog import get_base_model, load_catalog
from difffit_core.spec.job import TrainingSpec
from difffit_core.tasks.config import fields_of
from jobstore.kit.settings import get_settings
from jobstore.kit.tables import Dataset, Estimate, Json
from worker.jobs.files import fetch_tar
from worker.kit.lease import Lease
from worker.kit.leased_work import finish, work_on
from worker.kit.runtime import objects, sessions

logger = logging.getLogger(__name__)


def run_estimate(estimate_id: str) -> None:
    """Claim the estimate and bring it to `succeeded` or `failed`; does nothing where another worker has it."""
    work_on(Estimate, estimate_id, _bring_to_end)


def _bring_to_end(estimate: Estimate, lease: Lease) -> None:
    try:
        result = _compute(TrainingSpec.model_validate(estimate.spec), estimate.tenant_id)
    except DiffFitError as error:
        finish(lease, "failed", error=error.reason())
    except Exception as error:  # an architecture may do anything
        logger.exception("%s could not be computed", estimate.id)
        message = f"The job's needs could not be computed ({type(error).__name__}); the worker's log says more."
        finish(lease, "failed", error={"code": "estimate_failed", "message": message, "param": None})
    else:
        finish(lease, "succeeded", result=result)


def _compute(spec: TrainingSpec, tenant_id: str | None) -> Json:
    # Here, because workers that never compute should not load torch.
    from difffit_core.planning.plan import estimate
    from difffit_core.runtime.devices import pick_device

    settings = get_settings()
    base = get_base_model(load_catalog(settings.models, settings.models_dir), spec.base_model)
    spec = spec.model_copy(update={"base_model_path": str(base.path)})
    needs = estimate(spec, pick_device(settings.device))
    if spec.task.type == "instruction":
        needs.rows = _rows(spec, tenant_id)
    return needs.model_dump(mode="json")


def _rows(spec: TrainingSpec, tenant_id: str | None) -> Rows:
    """How long the rows of the tenant's dataset are. Raises DatasetError where it has gone."""
    from difffit_core.data.dataset import read_index
    from difffit_core.data.rows import measure

    content = select(Dataset.content_key).where(Dataset.tenant_id == tenant_id, Dataset.sha256 == spec.dataset.sha256)
    with sessions()() as session:
        key = session.scalar(content.where(Dataset.status == "ready", Dataset.content_key.is_not(None)).limit(1))
    if key is None:
        raise DatasetError("The dataset is no longer there.", code="dataset_missing", param="dataset")
    work_dir = get_settings().work_dir
    work_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work_dir) as folder:
        fetch_tar(objects(), key, Path(folder) / "dataset")
        return measure(spec, read_index(Path(folder) / "dataset", fields_of(spec.task)))
