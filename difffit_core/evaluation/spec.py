"""An evaluation by itself: a model, a dataset and how the pictures are made. Torch-free; API, worker and evaluator share it."""

from typing import Annotated

from pydantic import Field

from difffit_core.evaluation.metrics import FeatureWeights, MetricName
from difffit_core.spec.catalog import BaseModelEntry
from difffit_core.spec.generation import Scheduler
from difffit_core.spec.strict import Seed, Strict
from difffit_core.tasks.config import FIELDS_OF_TASK, Holding, TaskName

HoldOut = Annotated[
    float,
    Field(ge=0, le=0.5, description="Share of each class to compare with, where the dataset's authors name no test split"),
]


def drawn_by(task: TaskName) -> tuple[Holding, ...]:
    """What every example of a dataset must have, for a model of the task to draw a picture to compare with its own."""
    told: Holding = "label" if task == "class-conditional" else "caption"
    return tuple(dict.fromkeys((*FIELDS_OF_TASK[task], told)))


class EvaluationSpec(Strict):
    """What is measured and how the pictures are made, every setting resolved."""

    metrics: list[MetricName]
    samples: int
    steps: int
    guidance_scale: float
    seed: Seed
    scheduler: Scheduler
    validation_fraction: HoldOut


class StandaloneEvaluation(Strict):
    """`evaluation.json` in a folder with `dataset/` and, unless the base alone is evaluated, `adapter.safetensors`."""

    spec: EvaluationSpec
    task: TaskName
    base: BaseModelEntry
    dataset_sha256: str
    feature_weights: FeatureWeights
