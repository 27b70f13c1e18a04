"""What POST /evaluations takes, and what evaluations show."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from api.kit.answers import RowError, columns
from difffit_core.evaluation.metrics import DEFAULT_SAMPLES, Figure, MetricNames, SampleCount
from difffit_core.evaluation.spec import EvaluationSpec, HoldOut
from difffit_core.spec.generation import Scheduler
from difffit_core.spec.strict import Seed, Strict
from jobstore.kit import tables


class EvaluationRequest(Strict):
    """Exactly one of `adapter` and `base_model`."""

    adapter: str | None = Field(None, max_length=200)
    base_model: str | None = Field(None, max_length=200)
    dataset: str = Field(max_length=200, description="Whose held-out pictures the generated ones are compared with")
    metrics: Annotated[MetricNames, Field(min_length=1)]
    samples: SampleCount = DEFAULT_SAMPLES
    steps: Annotated[int, Field(strict=True, ge=1, le=1000)] | None = None
    guidance_scale: Annotated[float, Field(ge=0, le=30)] | None = None
    seed: Seed = Field(0, description="Of the first picture; the next has the next number")
    scheduler: Scheduler | None = None
    validation_fraction: HoldOut | None = Field(
        None, description="Absent: that of the adapter's job, where it was trained on the same content, else 0.1"
    )


class EvaluationProgress(BaseModel):
    samples: int = Field(description="Pictures measured so far")
    total_samples: int


class EvaluationView(BaseModel):
    id: str
    status: Literal["queued", "running", "succeeded", "failed"]
    adapter: str | None
    base_model: str
    dataset: str
    parameters: EvaluationSpec
    progress: EvaluationProgress
    figures: list[Figure] | None = Field(description="Null until it has succeeded")
    error: RowError | None
    created_at: datetime
    finished_at: datetime | None

    @classmethod
    def of(cls, row: tables.Evaluation) -> "EvaluationView":
        return cls.model_validate(
            columns(row, "id status base_model parameters figures error created_at finished_at")
            | {
                "adapter": row.adapter_id,
                "dataset": row.dataset_id,
                "progress": {"samples": row.samples_done, "total_samples": row.parameters["samples"]},
            }
        )
