"""Computes what trainings need, for plans, on the device that this worker has."""

import logging
from typing import Any

from difffit_core.base_models import get_base_model, load_catalog
from difffit_core.errors import DiffFitError
from difffit_core.spec import TrainingSpec
from jobstore import events, leases
from jobstore.settings import get_settings
from jobstore.tables import Estimate, Json
from worker.lease import Lease, LeaseLost
from worker.outages import persist
from worker.runtime import sessions

logger = logging.getLogger(__name__)


def run_estimate(estimate_id: str) -> None:
    """Claim the estimate and bring it to `succeeded` or `failed`; does nothing where another worker has it."""
    settings = get_settings()
    with sessions().begin() as session:
        token = leases.claim(session, Estimate, estimate_id, settings.lease_seconds)
        estimate = session.get(Estimate, estimate_id)
    if token is None or estimate is None:
        return
    with Lease(sessions(), Estimate, estimate_id, token, settings) as lease:
        try:
            _finish(lease, "succeeded", result=_compute(estimate.spec))
        except LeaseLost:
            logger.warning("Lost the lease of %s; another worker computes it", estimate_id)
        except DiffFitError as error:
            _finish(lease, "failed", error={"code": error.code, "message": error.message, "param": error.param})
        except Exception as error:  # an architecture may do anything
            logger.exception("%s could not be computed", estimate_id)
            message = f"The job's needs could not be computed ({type(error).__name__}); the worker's log says more."
            _finish(lease, "failed", error={"code": "estimate_failed", "message": message, "param": None})


def _compute(document: Json) -> Json:
    # Here, because workers that never compute should not load torch.
    from difffit_core.devices import pick_device
    from difffit_core.planning import estimate

    settings = get_settings()
    spec = TrainingSpec.model_validate(document)
    base = get_base_model(load_catalog(settings.models, settings.models_dir), spec.base_model)
    spec = spec.model_copy(update={"base_model_path": str(base.path)})
    return estimate(spec, pick_device(settings.device)).model_dump(mode="json")


def _finish(lease: Lease, status: str, **values: Any) -> None:
    def write() -> None:
        with sessions().begin() as session:
            lease.finish(session, status, **values)
            events.notify(session, "estimate", lease.row_id)

    persist(lease, write)
