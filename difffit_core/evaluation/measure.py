"""One evaluation: pictures are drawn in portions, seen by the networks, and compared with a dataset's held-out pictures."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from difffit_core.data.dataset import Item
from difffit_core.errors import DatasetError
from difffit_core.evaluation.extractors import SHOWN_HASH, FeatureExtractor, load_extractor, pixels_of
from difffit_core.evaluation.metrics import (
    EXTRACTOR_OF_METRIC,
    EvaluationPlan,
    ExtractorName,
    FeatureWeights,
    Figure,
    MetricName,
    extractors_of,
)
from difffit_core.evaluation.references import reference_features, write_tensors
from difffit_core.evaluation.statistics import NEIGHBOURS, clip_score, frechet_distance, kernel_distance, precision_recall

PORTION = 32  # pictures that are drawn at once; what is measured of them survives a stop

Draw = Callable[[range], list[Image.Image]]  # the pictures of these rows of the chosen items; row i from noise `seed + i`
Progress = Callable[[int, int], None]  # (done, of) pictures
Features = dict[str, Tensor]  # `[N, D]` by the name of a network; "captions" are those of the texts


class Evaluation:
    """The networks that a plan needs. The constructor fails where one is not to be had: before any drawing.

    They are on the device while they measure only, for the memory belongs to training.
    """

    def __init__(self, plan: EvaluationPlan, weights: FeatureWeights, device: torch.device) -> None:
        self.plan, self._device = plan, device
        self._extractors: dict[ExtractorName, FeatureExtractor] = {
            name: load_extractor(name, weights) for name in extractors_of(plan.metrics)
        }
        self._seen_by = self._extractors.keys() | ({"captions"} if "clip" in self._extractors else set())

    def check(self, held_out: Sequence[Item], param: str) -> None:
        """Raise DatasetError where there are too few held-out pictures to compare with; `param` is what sets their share."""
        least = NEIGHBOURS + 1 if "precision-recall" in self.plan.metrics else 2
        if len(held_out) < least:
            raise DatasetError(
                f"{len(held_out)} pictures are held out, and an evaluation needs {least} at least. Use a dataset with a test "
                "split, or a larger validation_fraction.",
                code="too_few_images",
                param=param,
            )

    def run(
        self, draw: Draw, chosen: Sequence[Item], held_out: Sequence[Item], spec_dir: Path, folder: Path, progress: Progress
    ) -> list[Figure]:
        """The figures of the plan. What is in `folder` already, from a run that was interrupted, is not drawn again.

        `chosen` say what the pictures are to show; the files of `held_out` lie in `dataset/` of `spec_dir`, in whose
        `references/` their features are kept.
        """
        with self._on_device():
            drawn = self._drawn(draw, chosen, folder, progress)
            references: Features = {
                name: reference_features(self.plan, name, extractor, held_out, spec_dir)
                for name, extractor in self._extractors.items()
                if name != "clip"
            }
        return [figure for metric in self.plan.metrics for figure in self._figures(metric, drawn, references)]

    @contextmanager
    def _on_device(self) -> Iterator[None]:
        try:
            for extractor in self._extractors.values():
                extractor.to(self._device)
            yield
        finally:
            for extractor in self._extractors.values():
                extractor.to(torch.device("cpu"))

    def _drawn(self, draw: Draw, chosen: Sequence[Item], folder: Path, progress: Progress) -> Features:
        total = self.plan.samples
        portions: list[Features] = []
        for start in range(0, total, PORTION):
            rows = range(start, min(start + PORTION, total))
            path = folder / f"portion-{start:06d}.safetensors"
            kept = _read(path)
            if kept is None or kept.keys() != self._seen_by:
                kept = self._see(pixels_of(draw(rows)), [chosen[row] for row in rows])
                write_tensors(path, kept)
            portions.append(kept)
            progress(rows.stop, total)
        return {name: torch.cat([portion[name] for portion in portions]) for name in portions[0]}

    def _see(self, pictures: Tensor, items: list[Item]) -> Features:
        features: Features = {name: extractor.features(pictures) for name, extractor in self._extractors.items()}
        if "clip" in self._extractors:
            from difffit_core.evaluation.clip import Clip

            clip = self._extractors["clip"]
            assert isinstance(clip, Clip)
            features["captions"] = clip.text_features([item.caption for item in items])
        return features

    def _figures(self, metric: MetricName, drawn: Features, references: Features) -> list[Figure]:
        name = EXTRACTOR_OF_METRIC[metric]
        generated, real = drawn[name], references.get(name)
        figure = partial(
            Figure,
            samples=len(generated),
            reference_images=None if real is None else len(real),
            reference=self.plan.reference,
            resolution=self.plan.resolution,
            extractor=f"{name} {self._extractors[name].sha256[:SHOWN_HASH]}",
        )
        if real is None:
            return [figure(metric="clip-score", value=clip_score(generated, drawn["captions"]))]
        if metric == "kid":
            value, std = kernel_distance(generated, real)
            return [figure(metric=metric, value=value, std=std)]
        if metric == "precision-recall":
            precision, recall = precision_recall(generated, real)
            return [figure(metric="precision", value=precision), figure(metric="recall", value=recall)]
        return [figure(metric=metric, value=frechet_distance(generated, real))]


def chosen_items(held_out: Sequence[Item], samples: int) -> list[Item]:
    """As many items as pictures are drawn, spread evenly over the held-out ones: their classes keep their shares."""
    by_class = sorted(held_out, key=lambda item: item.label)
    return [by_class[row * len(by_class) // samples] for row in range(samples)]


def _read(path: Path) -> Features | None:
    try:
        return load_file(path)
    except (OSError, SafetensorError):
        return None
