"""Computes what trainings need, for plans, on the device that this worker has."""

import logging

from difffit_core.base_models import get_base_model, load_catalog
from difffit_core.errors import DiffFitError
from difffit_core.spec import TrainingSpec
from jobstore.settings import get_settings
from jobstore.tables import Estimate, Json
from worker.lease import Lease
from worker.leased_work import finish, work_on

logger = logging.getLogger(__name__)


def run_estimate(estimate_id: str) -> None:
    """Claim the estimate and bring it to `succeeded` or `failed`; does nothing where another worker has it."""
    work_on(Estimate, estimate_id, _bring_to_end)


def _bring_to_end(estimate: Estimate, lease: Lease) -> None:
    try:
        result = _compute(estimate.spec)
    except DiffFitError as error:
        finish(lease, "failed", error=error.reason())
    except Exception as error:  # an architecture may do anything
        logger.exception("%s could not be computed", estimate.id)
        message = f"The job's needs could not be computed ({type(error).__name__}); the worker's log says more."
        finish(lease, "failed", error={"code": "estimate_failed", "message": message, "param": None})
    else:
        finish(lease, "succeeded", result=result)


def _compute(document: Json) -> Json:
    # Here, because workers that never compute should not load torch.
    from difffit_core.devices import pick_device
    from difffit_core.planning import estimate

    settings = get_settings()
    spec = TrainingSpec.model_validate(document)
    base = get_base_model(load_catalog(settings.models, settings.models_dir), spec.base_model)
    spec = spec.model_copy(update={"base_model_path": str(base.path)})
    return estimate(spec, pick_device(settings.device)).model_dump(mode="json")
