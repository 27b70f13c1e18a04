"""A dataset as those need it who train on it or measure by it."""

from typing import Any

from sqlalchemy import Row

from difffit_core.errors import DatasetError
from difffit_core.spec.job import DatasetSummary
from jobstore.kit.errors import ConflictError
from jobstore.kit.tables import Dataset


def dataset_summary(dataset: Row[Any] | Dataset) -> DatasetSummary:
    """What training needs of a dataset; raises where it is not ready."""
    if dataset.status == "checking":
        raise ConflictError(
            f"The dataset is still being checked. Post the job again when GET /datasets/{dataset.id} says `ready`.",
            code="dataset_not_ready",
            param="dataset",
        )
    if dataset.status != "ready" or dataset.sha256 is None or dataset.classes is None:
        reason = dataset.error["message"] if dataset.error else "Upload it again."
        raise DatasetError(f"The dataset is {dataset.status}. {reason}", code=f"dataset_{dataset.status}", param="dataset")
    return DatasetSummary(sha256=dataset.sha256, classes=dataset.classes, holds=dataset.holds, frame=dataset.frame)
