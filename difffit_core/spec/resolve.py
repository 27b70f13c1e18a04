"""What a job is asked for becomes a plan: every "auto" a value, and what cannot be trained an error. Torch-free."""

from typing import get_args

from difffit_core.errors import SpecError
from difffit_core.evaluation.metrics import DEFAULT_SAMPLES, MetricName, check_metrics
from difffit_core.spec.catalog import BaseModelEntry
from difffit_core.spec.job import DatasetSummary, JobSpec, ResolvedHyperparameters, TrainingSpec
from difffit_core.tasks.config import FIELDS_OF_TASK, TASK, TaskConfig, fields_of

MAX_TOKENS = 256  # of a prompt with its answer, as in the paper's supplement
INSTRUCTION_WARMUP = 100  # the supplement's steps of warm-up, or a tenth of a shorter job
INSTRUCTION_MICRO_BATCH = 4  # its batch of 128 is accumulated: a Llama's activations are large
WITH_DROPOUT = frozenset({"class-conditional", "text-to-image", "controlnet"})  # tasks whose conditions guidance is to drop


def resolve(spec: JobSpec, base: BaseModelEntry, dataset: DatasetSummary) -> TrainingSpec:
    """Replace every "auto" by the value the base model, the method and the dataset call for.

    The learning rate is the method's: ten times the base's pre-training rate for what trains a small part (paper,
    section 4.1), the pre-training rate for full fine-tuning. Raises SpecError where a combination cannot be trained.
    """
    task = _task(spec, base, dataset)
    spec.method.check_fits("controlnet" if task.type == "controlnet" else base.family)
    _check_dataset(task, dataset)
    if task.type == "dreambooth":
        task.check_new(base.vocabulary())
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
        "max_tokens": min(MAX_TOKENS, base.context_tokens() or MAX_TOKENS) if task.type == "instruction" else None,
        "overlong": "drop" if task.type == "instruction" else None,
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


def _task(spec: JobSpec, base: BaseModelEntry, dataset: DatasetSummary) -> TaskConfig:
    """The task as it was asked for, or the base's first; raises SpecError where the base is not for it."""
    task = TASK.validate_python({"type": base.tasks[0]}) if spec.task is None else spec.task
    if task.type not in base.tasks:
        raise SpecError(
            f"{base.id}, a {base.family} model, is not for {task.type}; it is for {', '.join(base.tasks)}.",
            code="wrong_family",
            param="task.type",
        )
    if task.type == "instruction" and task.frame == "auto":
        return task.model_copy(update={"frame": dataset.frame or "none"})
    return task


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
    """Raise SpecError where the base cannot make pictures of the resolution, or reads no texts so long, or has neither."""
    for name, value, meaningless in (
        ("resolution", resolved.resolution, base.family == "llama"),
        ("aspect", resolved.aspect, base.family == "llama"),
        ("max_tokens", resolved.max_tokens, base.family != "llama"),
        ("overlong", resolved.overlong, base.family != "llama"),
    ):
        if meaningless and value is not None:
            raise SpecError(
                f"{name} means nothing to {base.id}, a {base.family} model; leave it out.", param=f"hyperparameters.{name}"
            )
    context = base.context_tokens()
    if resolved.max_tokens is not None and context is not None and resolved.max_tokens > context:
        raise SpecError(
            f"{base.id} reads {context} tokens, a prompt and its answer together; max_tokens {resolved.max_tokens} is more.",
            code="context_exceeded",
            param="hyperparameters.max_tokens",
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
