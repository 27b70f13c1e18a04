"""Evaluate a base model, or an adapter on it, against the held-out pictures of a dataset."""

from pathlib import Path

from PIL import Image

from difffit_core.adapters.file import read_adapter
from difffit_core.data.dataset import Item, read_index, split, split_name
from difffit_core.errors import SpecError
from difffit_core.evaluation.measure import Evaluation, chosen_items
from difffit_core.evaluation.metrics import EvaluationPlan, Reference
from difffit_core.evaluation.spec import EvaluationSpec, StandaloneEvaluation, drawn_by
from difffit_core.runtime.devices import pick_device
from difffit_core.sampling.registry import load_generator
from difffit_core.spec.generation import GenerationSpec
from difffit_core.training.events import EventLog

ADAPTER, DRAWN = "adapter.safetensors", "drawn"  # in the folder; `drawn/` keeps what was measured of each portion


def evaluate(folder: Path, asked: StandaloneEvaluation, events: EventLog, device: str) -> None:
    """Report progress and figures; goes on where it was interrupted. Raises DiffFitError for what the user can mend."""
    spec, dataset = asked.spec, folder / "dataset"
    items = read_index(dataset, drawn_by(asked.task))
    held_out = split(items, spec.validation_fraction)[1]
    adapter = read_adapter(folder / ADAPTER) if (folder / ADAPTER).exists() else None
    resolution = (adapter and adapter.header.resolution) or asked.base.image_size()
    if resolution is None:
        raise SpecError(f"{asked.base.id} makes no pictures.", param="base_model")
    reference = Reference(dataset=asked.dataset_sha256, split=split_name(items, spec.validation_fraction))
    plan = EvaluationPlan(
        metrics=spec.metrics, samples=spec.samples, seed=spec.seed, resolution=resolution, reference=reference
    )
    evaluation = Evaluation(plan, asked.feature_weights, pick_device(device))
    evaluation.check(held_out, "validation_fraction")
    chosen = chosen_items(held_out, plan.samples)
    generator = load_generator(asked.base, device)
    generator.use(adapter)

    def draw(rows: range) -> list[Image.Image]:
        items = [chosen[row] for row in rows]
        if asked.task != "controlnet":
            return generator.images(_generation(spec, resolution, items, rows.start, generator.class_names))
        pictures = []
        for row, item in zip(rows, items, strict=True):  # each is drawn after a condition picture of its own
            with Image.open(dataset / item.condition) as condition:
                pictures += generator.images(_generation(spec, resolution, [item], row, []), condition)
        return pictures

    def progress(done: int, of: int) -> None:
        events.emit("evaluating", done=done, total=of)

    figures = evaluation.run(draw, chosen, held_out, folder, folder / DRAWN, progress)
    events.emit("evaluation", figures=[figure.model_dump() for figure in figures])


def _generation(spec: EvaluationSpec, side: int, items: list[Item], start: int, class_names: list[str]) -> GenerationSpec:
    """The pictures of `items`, of classes where there are `class_names`; the first is picture `start` of the evaluation.

    They are squares of `side` pixels, as what they are compared with is cut to.
    """
    unknown = sorted({item.label for item in items} - set(class_names)) if class_names else []
    if unknown:
        raise SpecError(f"The model has no class {unknown[0]!r}, which the dataset has.", code="unknown_label", param="dataset")
    return GenerationSpec(
        labels=[class_names.index(item.label) for item in items] if class_names else [],
        prompts=[] if class_names else [item.caption for item in items],
        steps=spec.steps,
        guidance_scale=spec.guidance_scale,
        seed=spec.seed + start,
        scheduler=spec.scheduler,
        width=side,
        height=side,
    )
