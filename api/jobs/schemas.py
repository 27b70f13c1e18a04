"""What jobs show: themselves, their plan, and what they bring forth."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field
from sqlalchemy import Row

from api.generations.image_schemas import media_type_of, url_of
from api.kit.answers import RowError, columns
from difffit_core.evaluation.metrics import Figure
from difffit_core.methods.config import MethodConfig
from difffit_core.planning.estimate import Estimate
from difffit_core.spec.job import ResolvedHyperparameters, TrainingSpec
from difffit_core.tasks.config import TaskConfig
from jobstore.kit import tables


class Progress(BaseModel):
    step: int
    total_steps: int
    samples_per_second: float | None
    seconds_remaining: float | None
    queue_position: int | None = Field(description="1 is next; null unless the job is queued")


class Losses(BaseModel):
    train: float | None = None
    validation_base: float | None = Field(None, description="Of the untouched base model")
    validation: float | None = Field(None, description="Of the model as it is trained now")


class JobView(BaseModel):
    id: str
    name: str | None
    status: Literal["validating", "queued", "running", "pausing", "paused", "cancelling", "succeeded", "failed", "cancelled"]
    base_model: str
    dataset: str
    task: TaskConfig
    method: MethodConfig
    hyperparameters: ResolvedHyperparameters = Field(description='With a number for every "auto"')
    seed: int
    priority: int = Field(description="Among the tenant's own jobs; higher is sooner")
    max_duration: int | None = Field(description="Seconds with a worker, over all attempts, after which the job fails")
    progress: Progress
    losses: Losses
    trained_parameters: int | None
    total_parameters: int | None
    adapter: str | None
    attempt: int
    error: RowError | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def of(cls, row: tables.Job | Row[Any], queue_position: int | None, adapter: str | None) -> "JobView":
        return cls.model_validate(
            columns(
                row, "id name status base_model priority max_duration losses trained_parameters total_parameters attempt error"
            )
            | columns(row, "created_at started_at finished_at")
            | {key: row.training_spec[key] for key in ("task", "method", "hyperparameters", "seed")}
            | {
                "dataset": row.dataset_id,
                "adapter": adapter,
                "progress": columns(row, "step total_steps samples_per_second seconds_remaining")
                | {"queue_position": queue_position},
            }
        )


class Duration(BaseModel):
    """The training steps alone: encoding, validations, samples and evaluations come on top."""

    seconds_per_step: float = Field(description="The median of the tenant's last jobs of this kind, five at most")
    total_seconds: float
    device: str = Field(description="What they trained on")
    jobs: int = Field(description="How many they are")
    measured_at: datetime | None = Field(description="When the last of them began")


class Plan(BaseModel):
    plan: dict[str, Any] = Field(description="The job as it would be trained, every value resolved")
    estimate: Estimate | None = Field(None, description="What it needs, computed for the device of a worker")
    no_estimate: str | None = Field(None, description="Why `estimate` is null")
    duration: Duration | None = Field(None, description="How long it will take")
    no_duration: str | None = Field(None, description="Why `duration` is null")

    @classmethod
    def of(cls, spec: TrainingSpec) -> "Plan":
        return cls(plan=spec.model_dump(mode="json", exclude={"base_model_path", "feature_weights", "captioner_path"}))


class EventView(BaseModel):
    id: str
    sequence: int = Field(description="Counts from 1 within a job")
    type: str
    data: dict[str, Any]
    created_at: datetime

    @classmethod
    def of(cls, row: tables.JobEvent) -> "EventView":
        return cls.model_validate(columns(row, "id sequence type data created_at"))


class Metric(BaseModel):
    step: int
    train_loss: float | None = None
    validation_loss: float | None = None
    base: bool | None = Field(None, description="True: the validation loss is of the untouched base model")
    figures: list[Figure] | None = Field(None, description="Of an evaluation, each with all that it depends on")


class Metrics(BaseModel):
    data: list[Metric]


class SampleView(BaseModel):
    id: str
    step: int
    labels: list[str] = Field(description="The class, caption or prompt of each row")
    media_type: str = Field(description="image/png, or text/plain of a language model")
    url: str

    @classmethod
    def of(cls, row: tables.Image) -> "SampleView":
        media_type = media_type_of(row)
        return cls(id=row.id, step=row.position, labels=row.details["labels"], media_type=media_type, url=url_of(row))


class CheckpointView(BaseModel):
    id: str
    step: int
    bytes: int
    created_at: datetime
