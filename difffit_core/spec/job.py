"""The job spec: what a user asks for, and the resolved plan the trainer runs. Torch-free; API, client and trainer share it."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator

from difffit_core.errors import SpecError
from difffit_core.evaluation.metrics import DEFAULT_SAMPLES, FeatureWeights, MetricName, MetricNames, SampleCount
from difffit_core.methods.config import MethodConfig
from difffit_core.methods.difffit.config import DiffFitConfig
from difffit_core.spec.catalog import BaseModelEntry, Family, TrainingDefaults
from difffit_core.spec.strict import Auto, PositiveInt, Seed, Strict
from difffit_core.tasks.config import Frame, Holding, TaskConfig

Sampler = Literal["uniform", "balanced"]

Aspect = Literal["crop", "buckets"]

Overlong = Literal["drop", "cut", "fail"]

BasePrecision = Literal["fp32", "bf16", "int8", "nf4"]


class Hyperparameters(Strict):
    """What a user may set; every field may be left out or "auto"."""

    steps: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] | Auto = "auto"
    batch_size: Annotated[int, Field(strict=True, ge=1, le=4096)] | Auto = "auto"
    micro_batch_size: (
        Annotated[
            int,
            Field(strict=True, ge=1, le=4096, description="How much of a batch one device holds at a time; auto is all of it."),
        ]
        | Auto
    ) = "auto"
    gradient_checkpointing: (
        Annotated[
            bool, Field(strict=True, description="Recompute activations instead of keeping them: less memory, a slower step.")
        ]
        | Auto
    ) = "auto"
    base_precision: (
        Annotated[BasePrecision, Field(description="How the frozen matrices are stored while training; auto is fp32.")] | Auto
    ) = "auto"
    resolution: (
        Annotated[
            int, Field(strict=True, ge=8, le=4096, description="Width and height of the pictures; auto is the base model's.")
        ]
        | Auto
    ) = "auto"
    aspect: (
        Annotated[
            Aspect,
            Field(
                description="crop: the middle square of each picture; buckets: each keeps about its ratio of width to height, "
                "at the area of the square. Auto is crop."
            ),
        ]
        | Auto
    ) = "auto"
    max_tokens: (
        Annotated[
            int,
            Field(
                strict=True, ge=2, le=32768, description="The most tokens of a row, its prompt included; for language models."
            ),
        ]
        | Auto
    ) = "auto"
    overlong: (
        Annotated[
            Overlong,
            Field(
                description="What becomes of a row with more tokens than `max_tokens`: drop, it is left out; cut, its end is "
                "cut off; fail, there is no such job. Auto is drop; for language models."
            ),
        ]
        | Auto
    ) = "auto"
    learning_rate: Annotated[float, Field(strict=True, gt=0, le=1)] | Auto = "auto"
    lr_schedule: Literal["constant", "cosine", "warmup-stable-decay"] | Auto = "auto"
    warmup_steps: Annotated[int, Field(strict=True, ge=0)] | Auto = "auto"
    weight_decay: Annotated[float, Field(strict=True, ge=0, le=1)] | Auto = "auto"
    ema_decay: Annotated[float, Field(strict=True, ge=0, lt=1)] | Auto = "auto"
    label_dropout: Annotated[float, Field(strict=True, ge=0, lt=1)] | Auto = "auto"
    max_grad_norm: Annotated[float, Field(strict=True, gt=0)] | Auto = "auto"
    horizontal_flip: Annotated[bool, Field(strict=True)] | Auto = "auto"
    sampler: (
        Annotated[
            Sampler,
            Field(description="balanced: every class equally often, however many examples it has; auto is uniform."),
        ]
        | Auto
    ) = "auto"
    validation_fraction: Annotated[float, Field(strict=True, ge=0, le=0.5)] | Auto = "auto"
    validate_every: PositiveInt | Auto = "auto"
    sample_every: PositiveInt | Auto = "auto"
    checkpoint_every: PositiveInt | Auto = "auto"
    guidance_scale: Annotated[float, Field(strict=True, ge=0, le=30)] | Auto = "auto"
    sample_steps: Annotated[int, Field(strict=True, ge=1, le=1000)] | Auto = "auto"
    evaluate_every: (
        Annotated[
            int,
            Field(strict=True, ge=1, description="Steps between evaluations, the last of which is at the end; auto is never."),
        ]
        | Auto
        | None
    ) = "auto"
    evaluation_samples: SampleCount | Auto = "auto"
    evaluation_metrics: Annotated[MetricNames, Field(min_length=1)] | Auto = "auto"


class JobSpec(Strict):
    """The body of `POST /jobs`."""

    base_model: Annotated[str, Field(min_length=1, max_length=200)]
    dataset: Annotated[str, Field(min_length=1, max_length=200)]
    task: TaskConfig | None = Field(None, description="What is trained; absent: the first of the base model's tasks")
    method: MethodConfig = DiffFitConfig(type="difffit")
    hyperparameters: Hyperparameters = Hyperparameters()
    seed: Seed = 0
    name: Annotated[str, Field(max_length=200)] | None = None
    priority: Annotated[int, Field(strict=True, ge=-100, le=100)] = 0  # among the tenant's own jobs; higher is sooner
    max_duration: Annotated[int, Field(strict=True, ge=1, le=31_536_000)] | None = None  # seconds with a worker, in all
    init_adapter: Annotated[str, Field(min_length=1, max_length=200)] | None = None  # whose values to begin with


class DatasetSummary(Strict):
    """What the resolver and the trainer need to know of a checked dataset: one count per class, and its content hash.

    Examples without a class, such as captioned pictures, count as of the class "". `holds` names what every example has,
    `frame` what texts are written for.
    """

    sha256: str
    classes: dict[str, int]
    holds: list[Holding]
    frame: Frame | None = None

    @property
    def examples(self) -> int:
        return sum(self.classes.values())


def content_sha256(images: Iterable[tuple[str, str, str]]) -> str:
    """Hash of a dataset from the (label, SHA-256, split) of its images, whatever the files are called and however ordered.

    An empty split adds nothing.
    """
    lines = sorted("\t".join((label, sha256, split)[: 3 if split else 2]) + "\n" for label, sha256, split in images)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


class ResolvedHyperparameters(Strict):
    """The same fields with every "auto" replaced by a number, or by null where the base model has no such thing."""

    steps: int
    batch_size: int
    micro_batch_size: int
    gradient_checkpointing: bool
    base_precision: BasePrecision
    resolution: int | None
    aspect: Aspect | None = "crop"
    max_tokens: int | None
    overlong: Overlong | None = None
    learning_rate: float
    lr_schedule: Literal["constant", "cosine", "warmup-stable-decay"]
    warmup_steps: int
    weight_decay: float
    ema_decay: float
    label_dropout: float
    max_grad_norm: float
    horizontal_flip: bool
    sampler: Sampler
    validation_fraction: float
    validate_every: int
    sample_every: int
    checkpoint_every: int
    guidance_scale: float
    sample_steps: int
    evaluate_every: int | None = None
    evaluation_samples: int = DEFAULT_SAMPLES
    evaluation_metrics: list[MetricName] = Field(default_factory=list)


class TrainingSpec(Strict):
    """`spec.json` in a SPEC_DIR: everything the trainer needs, with nothing left to decide."""

    format_version: Literal[1] = 1
    task: TaskConfig
    base_model: str
    base_model_path: str
    family: Family  # of the base
    method: MethodConfig
    hyperparameters: ResolvedHyperparameters
    dataset: DatasetSummary
    seed: int
    defaults: TrainingDefaults  # of the base: its loss weighting, and its scheduler for sample grids
    feature_weights: FeatureWeights = FeatureWeights()  # what evaluations measure with, on the machine that trains
    captioner_path: str | None = None  # of the operator's BLIP model, for tasks that have captions written
    compile: bool = False  # compile the blocks: half a minute that pays from some thousand steps on; wants a C++ compiler

    def base(self) -> BaseModelEntry:
        """The base model in the folder that the plan names."""
        return BaseModelEntry.in_folder(self.base_model, Path(self.base_model_path), self.defaults, self.family)

    @model_validator(mode="after")
    def _steps_cover_warmup(self) -> Self:
        if self.hyperparameters.warmup_steps >= self.hyperparameters.steps:
            raise ValueError("hyperparameters.warmup_steps must be below hyperparameters.steps")
        return self


def read_spec(folder: Path) -> TrainingSpec:
    """The `spec.json` of a SPEC_DIR; raises SpecError where it cannot be used."""
    try:
        return TrainingSpec.model_validate_json((folder / "spec.json").read_text())
    except (OSError, ValidationError) as error:
        raise SpecError(f"spec.json cannot be used: {error}") from error
