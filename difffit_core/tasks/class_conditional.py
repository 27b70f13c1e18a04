"""Pictures of classes on a DiT: labels, a table of class vectors, and a grid of each class's samples."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from difffit_core.data.buckets import Size
from difffit_core.data.dataset import Item
from difffit_core.families.dit.network import load_transformer, null_label, replace_class_table
from difffit_core.families.dit.positions import resize
from difffit_core.sampling.denoising import decode, grid, sample_latents
from difffit_core.spec.catalog import BaseModelEntry
from difffit_core.spec.generation import GenerationSpec
from difffit_core.spec.job import TrainingSpec
from difffit_core.tasks.diffusion import DiffusionTask
from difffit_core.tasks.task import Examples, Tensors

SAMPLE_CLASSES, SAMPLES_PER_CLASS = 8, 4  # rows and columns of a sample grid


class ClassConditional(DiffusionTask):
    """The base's class table is replaced where the dataset has other classes than the base."""

    def __init__(self, spec: TrainingSpec, base: BaseModelEntry, device: torch.device) -> None:
        super().__init__(spec, base, device)
        assert self.h.resolution is not None
        self.model = load_transformer(base.path)
        if self.h.resolution != base.image_size():
            resize(self.model, self.h.resolution // base.pixels_per_latent())
        self.class_names = sorted(spec.dataset.classes)
        replace_class_table(self.model, base.class_names(), self.class_names)

    def warnings(self, items: list[Item]) -> list[str]:
        """ImageNet's classes have several names each, with commas between them."""
        known = {part.strip().casefold(): name for name in self.base.class_names() for part in (name, *name.split(","))}
        near = {name: known[name.casefold()] for name in self.class_names if name.casefold() in known}
        pairs = [f"{name!r} ({theirs!r})" for name, theirs in near.items() if name != theirs]
        if not pairs:
            return super().warnings(items)
        return [
            *super().warnings(items),
            f"{len(pairs)} classes are learned anew, for the base knows them by other names: {', '.join(pairs[:10])}. "
            "Name them as the base does to begin with what it knows.",
        ]

    def compiled_parts(self) -> list[nn.Module]:
        return list(self.model.transformer_blocks)

    def encode_conditions(self, items: list[Item], folder: Path, size: Size) -> Tensors:
        label_of = {name: index for index, name in enumerate(self.class_names)}
        return {"label": torch.tensor([label_of[item.label] for item in items])}

    def blank_conditions(self, count: int) -> Tensors:
        return {"label": torch.zeros(count, dtype=torch.long)}

    def predict(self, examples: Examples, indices: Tensor, drawn: Tensors, noisy: Tensor) -> Tensor:
        labels = torch.where(drawn["dropped"], null_label(self.model), examples.tensors["label"][indices])
        output: Tensor = self.model(noisy, timestep=drawn["timesteps"], class_labels=labels).sample
        return output

    def sample(self, examples: Examples, seed: int) -> list[Image.Image]:
        spec = GenerationSpec(
            labels=examples.tensors["label"].tolist(),
            steps=self.h.sample_steps,
            guidance_scale=self.h.guidance_scale,
            seed=seed,
            scheduler=self.spec.defaults.scheduler,
        )
        return decode(self.vae, sample_latents(self.model, self.base.path, spec))

    def preview(self, buckets: Sequence[Examples], stem: Path) -> tuple[Path, list[str]]:
        """A grid of pictures of up to eight classes, from the same seeds at every step."""
        chosen = list(range(len(self.class_names)))[:: max(1, len(self.class_names) // SAMPLE_CLASSES)][:SAMPLE_CLASSES]
        labels = torch.tensor(chosen).repeat_interleave(SAMPLES_PER_CLASS)
        path = stem.with_suffix(".png")
        grid(self.sample(Examples([], {"label": labels}), self.spec.seed), SAMPLES_PER_CLASS).save(path)
        return path, [self.class_names[label] for label in chosen]
