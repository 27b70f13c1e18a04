"""What a plan says of memory and size. Torch-free: a worker computes it, the API passes it on."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from difffit_core.errors import DatasetError
from difffit_core.evaluation.metrics import FeatureWeights
from difffit_core.spec.job import Overlong, TrainingSpec
from difffit_core.tasks.config import DreamBoothConfig

# Settings that change neither what is trained nor what a step takes.
NOT_IN_THE_KEY: dict[str, Any] = {
    "steps": 1,
    "learning_rate": 1.0,
    "lr_schedule": "constant",
    "warmup_steps": 0,
    "weight_decay": 0.0,
    "ema_decay": 0.0,
    "label_dropout": 0.0,
    "max_grad_norm": 1.0,
    "horizontal_flip": False,
    "sampler": "uniform",
    "validation_fraction": 0.0,
    "validate_every": 1,
    "sample_every": 1,
    "checkpoint_every": 1,
    "guidance_scale": 1.0,
    "sample_steps": 1,
    "evaluate_every": None,
    "evaluation_samples": 1,
    "evaluation_metrics": [],
}
Bytes = Annotated[int, Field(ge=0)]


class Memory(BaseModel):
    """Bytes on the device while training, by part."""

    model_config = ConfigDict(extra="forbid")

    frozen_weights: Bytes = Field(
        description="In the precision they are stored in, with all networks that the loss goes through"
    )
    trained_values: Bytes
    gradients: Bytes = Field(description="Of all that is trained")
    optimizer: Bytes = Field(description="AdamW's two moments")
    ema: Bytes = Field(description="The averaged values")
    examples: Bytes = Field(description="All encoded examples of the dataset, which stay on the device")
    activations_fixed: Bytes = Field(description="Of a step, however many examples it holds")
    activations_per_example: Bytes = Field(description="Of a step, for each example that is held at a time")
    allocator: Bytes = Field(
        description="Of a step: what the allocator holds beside tensors; on a CPU 60 % of them, as measured. A GPU's is in the "
        "tenth of the device that is left free"
    )
    total: Bytes = Field(
        description="At the peak of a step with the planned micro-batch. Below the sum of the parts where gradients come "
        "as activations go"
    )
    error: float | None = Field(
        description="By how much of the total a measured peak has differed from it at most (docs/plans.md); null: not measured "
        "on such a device"
    )


class Rows(BaseModel):
    """What becomes of a dataset's rows of texts."""

    model_config = ConfigDict(extra="forbid")

    total: int
    kept: int = Field(description="Trained on, or held out")
    longest: int = Field(description="In tokens")
    overlong: int = Field(description="Have more than `max_tokens`: see the hyperparameter `overlong`")
    unframed: int = Field(description="Are left out because the frame has no place for a message of theirs")

    def check(self, max_tokens: int, overlong: Overlong) -> None:
        """Raise DatasetError (`row_too_long`) where rows are too long and none may be."""
        if overlong == "fail" and self.overlong:
            raise DatasetError(
                f"{self.overlong} of {self.total} rows have more than {max_tokens} tokens, the longest {self.longest}. Raise "
                'max_tokens, shorten them, or set overlong to "drop" or "cut".',
                code="row_too_long",
                param="hyperparameters.overlong",
            )


class Estimate(BaseModel):
    """What a training needs, computed for the device of a worker."""

    model_config = ConfigDict(extra="forbid")

    device: str = Field(description="For which this was computed: the GPU's name or the CPU's model")
    device_bytes: Bytes = Field(description="Its whole memory")
    trained_parameters: int
    total_parameters: int
    adapter_bytes: Bytes
    memory: Memory
    micro_batch_size: int = Field(description="The planned one")
    largest_micro_batch_size: int | None = Field(
        description="The first of the batch size, its half, its quarter and so on that takes no more than 90 % of the device's "
        "memory; null: not even one example fits"
    )
    rows: Rows | None = Field(None, description="Of texts: how many are trained on, and how many are too long")


def cache_key(spec: TrainingSpec) -> TrainingSpec:
    """What an estimate depends on: nothing that users have named or written is in it, and alike jobs have the same."""
    counts = {str(index): 0 for index in range(len(spec.dataset.classes))} | {"0": spec.dataset.examples}
    task = spec.task
    measured = spec.dataset.sha256 if task.type == "instruction" else ""  # its rows are counted
    if isinstance(task, DreamBoothConfig):
        task = task.model_copy(update={"identifier": DreamBoothConfig.model_fields["identifier"].default, "subject": "thing"})
    return spec.model_copy(
        update={
            "task": task,
            "base_model_path": "",
            "hyperparameters": spec.hyperparameters.model_copy(update=NOT_IN_THE_KEY),
            "dataset": spec.dataset.model_copy(update={"sha256": measured, "classes": counts}),
            "seed": 0,
            "feature_weights": FeatureWeights(),
            "captioner_path": None,
        }
    )
