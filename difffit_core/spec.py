"""The job spec: what a user asks for, and the resolved plan the trainer runs. Torch-free; API, client and trainer share it."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from difffit_core.base_models import BaseModelEntry, Family, TrainingDefaults
from difffit_core.errors import SpecError
from difffit_core.evaluation.metrics import DEFAULT_SAMPLES, FeatureWeights, MetricName, MetricNames, SampleCount, check_metrics
from difffit_core.methods.config import MethodConfig
from difffit_core.methods.difffit.config import DiffFitConfig
from difffit_core.strict import Auto, PositiveInt, Strict
from difffit_core.tasks.config import FIELDS_OF_TASK, Holding, TaskConfig, fields_of

MAX_TOKENS = 256  # of a prompt with its answer, as in the paper's supplement
INSTRUCTION_WARMUP = 100  # the supplement's steps of warm-up, or a tenth of a shorter job
INSTRUCTION_MICRO_BATCH = 4  # its batch of 128 is accumulated: a Llama's activations are large
WITH_DROPOUT = frozenset({"class-conditional", "text-to-image", "controlnet"})  # tasks whose conditions guidance is to drop

Scheduler = Literal["ddpm", "ddim", "dpmsolver++"]

Sampler = Literal["uniform", "balanced"]

Aspect = Literal["crop", "buckets"]

BasePrecision = Literal["fp32", "bf16", "int8", "nf4"]

AdapterStrength = Annotated[float, Field(ge=0, le=2)]  # 0 is the base, 1 the adapter as it was trained

Seed = Annotated[int, Field(strict=True, ge=0, lt=2**53)]  # the integers that survive JSON in every language


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
            Field(strict=True, ge=2, le=32768, description="Where a prompt with its answer is cut off; for language models."),
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

    Examples without a class, such as captioned pictures, count as of the class "". `holds` names what every example has.
    """

    sha256: str
    classes: dict[str, int]
    holds: list[Holding]

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


TASK = TypeAdapter[TaskConfig](TaskConfig)


def read_spec(folder: Path) -> TrainingSpec:
    """The `spec.json` of a SPEC_DIR; raises SpecError where it cannot be used."""
    try:
        return TrainingSpec.model_validate_json((folder / "spec.json").read_text())
    except (OSError, ValidationError) as error:
        raise SpecError(f"spec.json cannot be used: {error}") from error


def resolve(spec: JobSpec, base: BaseModelEntry, dataset: DatasetSummary) -> TrainingSpec:
    """Replace every "auto" by the value the base model, the method and the dataset call for.

    The learning rate is the method's: ten times the base's pre-training rate for what trains a small part (paper,
    section 4.1), the pre-training rate for full fine-tuning. Raises SpecError where a combination cannot be trained.
    """
    task = _task(spec, base)
    spec.method.check_fits("controlnet" if task.type == "controlnet" else base.family)
    _check_dataset(task, dataset)
    asked = {k: v for k, v in spec.hyperparameters.model_dump().items() if v != "auto"}
    steps = int(asked.get("steps", base.defaults.steps))
    batch_size = int(asked.get("batch_size", min(base.defaults.batch_size, max(1, dataset.examples))))
    automatic = {
        "steps": steps,
        "batch_size": batch_size,
        "micro_batch_size": min(batch_size, INSTRUCTION_MICRO_BATCH) if task.type == "instruction" else batch_size,
        "gradient_checkpointing": False,
        "base_precision": "fp32",
        "resolution": base.image_size(),
        "aspect": None if base.family == "llama" else "crop",
        "max_tokens": MAX_TOKENS if task.type == "instruction" else None,
        "learning_rate": spec.method.learning_rate(base.defaults.pretraining_learning_rate, base.family),
        "lr_schedule": "constant",
        "warmup_steps": min(INSTRUCTION_WARMUP, steps // 10) if task.type == "instruction" else 0,
        "weight_decay": 0.0,
        "ema_decay": 0.9999,
        "label_dropout": 0.1 if task.type in WITH_DROPOUT else 0.0,
        "max_grad_norm": 1.0,
        "horizontal_flip": task.type == "class-conditional",  # captions and conditions know left from right
        "sampler": "uniform",
        "validation_fraction": 0.0 if task.type == "dreambooth" else 0.1,  # of a few pictures of one thing, none can be spared
        "validate_every": max(1, steps // 6),
        "sample_every": max(1, steps // 3),
        "checkpoint_every": max(1, steps // 6),
        "guidance_scale": base.defaults.guidance_scale,
        "sample_steps": base.defaults.sample_steps,
        "evaluate_every": None,
        "evaluation_samples": DEFAULT_SAMPLES,
        "evaluation_metrics": [],
    }
    resolved = ResolvedHyperparameters.model_validate(automatic | asked)
    if resolved.warmup_steps >= resolved.steps:
        raise SpecError(
            f"warmup_steps is {resolved.warmup_steps} but the job has only {resolved.steps} steps; make it smaller.",
            param="hyperparameters.warmup_steps",
        )
    if resolved.base_precision != "fp32" and spec.method.type == "full":
        raise SpecError(
            f"Full fine-tuning trains every matrix, so none can be stored in {resolved.base_precision}; "
            "use fp32, or a method that freezes the base.",
            param="hyperparameters.base_precision",
        )
    _check_sizes(resolved, base)
    _check_buckets(resolved, base)
    _check_evaluation(resolved, task)
    return TrainingSpec(
        task=task,
        base_model=spec.base_model,
        base_model_path=str(base.path),
        family=base.family,
        method=spec.method,
        hyperparameters=resolved,
        dataset=dataset,
        seed=spec.seed,
        defaults=base.defaults,
    )


def _task(spec: JobSpec, base: BaseModelEntry) -> TaskConfig:
    """The task as it was asked for, or the base's first; raises SpecError where the base is not for it."""
    if spec.task is None:
        return TASK.validate_python({"type": base.tasks[0]})
    if spec.task.type not in base.tasks:
        raise SpecError(
            f"{base.id}, a {base.family} model, is not for {spec.task.type}; it is for {', '.join(base.tasks)}.",
            code="wrong_family",
            param="task.type",
        )
    return spec.task


def _check_dataset(task: TaskConfig, dataset: DatasetSummary) -> None:
    """Raise SpecError where examples lack what the task learns from."""
    missing = [field for field in fields_of(task) if field not in dataset.holds]
    if missing:
        raise SpecError(
            f"The task {task.type} needs examples that all have a {missing[0]}, and this dataset's have only: "
            f"{', '.join(dataset.holds) or 'nothing alike'}. docs/datasets.md shows the layouts that give it.",
            code=f"no_{missing[0]}",
            param="dataset",
        )
    if task.type == "class-conditional" and len(dataset.classes) < 2:
        raise SpecError(
            "A class-conditional job needs images of at least two classes; this dataset has one. "
            "Add a second class folder, or labels in metadata.jsonl.",
            code="one_class_only",
            param="dataset",
        )


def _check_sizes(resolved: ResolvedHyperparameters, base: BaseModelEntry) -> None:
    """Raise SpecError where the base cannot make pictures of the resolution, or does not make any."""
    for name, value, meaningless in (
        ("resolution", resolved.resolution, base.family == "llama"),
        ("aspect", resolved.aspect, base.family == "llama"),
        ("max_tokens", resolved.max_tokens, base.family != "llama"),
    ):
        if meaningless and value is not None:
            raise SpecError(
                f"{name} means nothing to {base.id}, a {base.family} model; leave it out.", param=f"hyperparameters.{name}"
            )
    if resolved.resolution is not None and resolved.resolution % base.pixels_per_token():
        raise SpecError(
            f"{base.id} makes pictures of a multiple of {base.pixels_per_token()} pixels, and {resolved.resolution} is none.",
            param="hyperparameters.resolution",
        )


def _check_buckets(resolved: ResolvedHyperparameters, base: BaseModelEntry) -> None:
    """Raise SpecError where pictures are to keep their ratio and cannot."""
    if resolved.aspect != "buckets":
        return
    if base.family == "dit":
        raise SpecError(
            f"{base.id}, a DiT, knows positions in square pictures only: leave aspect out, or set it to crop.",
            param="hyperparameters.aspect",
        )
    if resolved.sampler == "balanced":
        raise SpecError(
            "A batch is of one bucket, which need not have examples of every class: use the sampler uniform with buckets, or "
            "balanced with aspect crop.",
            param="hyperparameters.sampler",
        )


def _check_evaluation(resolved: ResolvedHyperparameters, task: TaskConfig) -> None:
    """Raise SpecError where evaluations are asked for that measure nothing, or nothing that this task makes."""
    param = "hyperparameters.evaluation_metrics"
    if resolved.evaluate_every is not None and not resolved.evaluation_metrics:
        names = ", ".join(get_args(MetricName))
        raise SpecError(f"evaluate_every needs evaluation_metrics that say what to measure: {names}.", param=param)
    check_metrics(
        resolved.evaluation_metrics,
        has_pictures=resolved.resolution is not None,
        has_captions="caption" in FIELDS_OF_TASK[task.type],
        param=param,
    )


class GenerationSpec(Strict):
    """What the sampler of pictures runs: every setting resolved, and either `labels` or `prompts`.

    Labels are class indices of the adapter's (or the base's) label space. Image `i` is of `labels[i]` or `prompts[i]` and
    starts from noise of its own seed, `seed + i`.
    """

    labels: list[int] = Field(default_factory=list)
    prompts: list[str] = Field(default_factory=list)
    negative_prompt: str = ""  # what guidance leads away from, where there are prompts
    steps: Annotated[int, Field(strict=True, ge=1, le=1000)]
    guidance_scale: Annotated[float, Field(strict=True, ge=0, le=30)]
    seed: Seed
    scheduler: Scheduler
    adapter_strength: AdapterStrength = 1.0

    @model_validator(mode="after")
    def _labels_or_prompts(self) -> Self:
        if bool(self.labels) == bool(self.prompts):
            raise ValueError("give either labels or prompts")
        return self


class TextGenerationSpec(Strict):
    """What a language model writes: an answer to each of `prompts`, answer `i` with the seed `seed + i`."""

    prompts: Annotated[list[str], Field(min_length=1)]
    max_tokens: Annotated[int, Field(strict=True, ge=1, le=32768)]  # of each answer
    temperature: Annotated[float, Field(ge=0, le=5)]  # 0: always the likeliest token
    top_p: Annotated[float, Field(gt=0, le=1)]  # draw among the likeliest tokens that have so much of the probability
    seed: Seed
    adapter_strength: AdapterStrength = 1.0
