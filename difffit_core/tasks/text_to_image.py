"""Pictures with captions, on Stable Diffusion and PixArt: prompts are embedded once, and steer the network."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from difffit_core.data.buckets import Size
from difffit_core.data.dataset import Item
from difffit_core.families.networks import load_network, predict, told
from difffit_core.families.text_encoders import TextEncoder, blank_embeddings, cut_off, load_text_encoder, most_tokens
from difffit_core.sampling.denoising import Predict, decode, denoise, grid, learns_variance
from difffit_core.spec.catalog import BaseModelEntry
from difffit_core.spec.generation import GenerationSpec
from difffit_core.spec.job import TrainingSpec
from difffit_core.tasks.diffusion import DiffusionTask
from difffit_core.tasks.task import SHOWN_NAMES, Examples, Tensors

PREVIEW_CAPTIONS = 4
EMBEDDED = ("text", "text_mask")  # what a text encoder makes of prompts


class TextToImage(DiffusionTask):
    """A caption is dropped by exchanging it for the empty one, which guidance needs as well."""

    def __init__(self, spec: TrainingSpec, base: BaseModelEntry, device: torch.device) -> None:
        super().__init__(spec, base, device)
        self.model = load_network(base, spec.task.type)

    @cached_property
    def text_encoder(self) -> TextEncoder:
        """On the device until it is released."""
        return load_text_encoder(self.base.path, self.device)

    def release(self) -> None:
        super().release()
        self.__dict__.pop("text_encoder", None)

    @property
    def denoiser(self) -> Any:
        """The network that predicts noise."""
        return self.model

    def caption_of(self, item: Item) -> str:
        """What a picture is said to show."""
        return item.caption

    def warnings(self, items: list[Item]) -> list[str]:
        long = set(cut_off(self.base.path, {self.caption_of(item) for item in items}))
        names = [item.name for item in items if self.caption_of(item) in long]
        if not names:
            return super().warnings(items)
        return [
            *super().warnings(items),
            f"{len(names)} of {len(items)} captions are longer than the {most_tokens(self.base.path)} tokens that the text "
            f"encoder reads, and what follows in them is not learned. Shorten them: {', '.join(names[:SHOWN_NAMES])}.",
        ]

    def encode_conditions(self, items: list[Item], folder: Path, size: Size) -> Tensors:
        """The different captions, embedded, the first of which is empty; `caption` `[N]`: rows of them."""
        captions = ["", *sorted({self.caption_of(item) for item in items})]
        row_of = {caption: row for row, caption in enumerate(captions)}
        rows = torch.tensor([row_of[self.caption_of(item)] for item in items])
        return self.text_encoder.embed(captions) | {"caption": rows}

    def blank_conditions(self, count: int) -> Tensors:
        """Each with a caption of its own."""
        return blank_embeddings(self.base.path, count + 1) | {"caption": torch.zeros(count, dtype=torch.long)}

    def prompts(self, examples: Examples, rows: Tensor) -> Tensors:
        """The embedded captions at `rows` `[B]`."""
        return told({name: examples.tensors[name] for name in EMBEDDED if name in examples.tensors}, rows)

    def predict(self, examples: Examples, indices: Tensor, drawn: Tensors, noisy: Tensor) -> Tensor:
        captions = torch.where(drawn["dropped"], 0, examples.tensors["caption"][indices])
        return predict(self.model, noisy, drawn["timesteps"], self.prompts(examples, captions))

    def sample(self, examples: Examples, seed: int) -> list[Image.Image]:
        assert examples.size is not None
        rows = torch.arange(len(examples), device=self.device)
        spec = GenerationSpec(
            prompts=[self.caption_of(item) for item in examples.items],
            steps=self.h.sample_steps,
            guidance_scale=self.h.guidance_scale,
            seed=seed,
            scheduler=self.spec.defaults.scheduler,
        )
        width, height = (side // self.base.pixels_per_latent() for side in examples.size)
        shape, variance = (self.channels, height, width), learns_variance(self.denoiser)
        return decode(self.vae, denoise(self.sampler(examples), rows, -1 - rows, shape, self.base.path, spec, variance))

    def preview(self, buckets: Sequence[Examples], stem: Path) -> tuple[Path, list[str]]:
        """A picture for each of a few captions, one below the other, from the same seeds at every step."""
        pictures, captions = list[Image.Image](), list[str]()
        of_each = max(1, PREVIEW_CAPTIONS // len(buckets))
        for bucket in buckets[:PREVIEW_CAPTIONS]:
            shown = replace(bucket, items=bucket.items[:of_each])
            pictures += self.sample(shown, self.spec.seed + len(pictures))
            captions += [self.caption_of(item) for item in shown.items]
        path = stem.with_suffix(".png")
        grid(pictures, 1).save(path)
        return path, captions

    def sampler(self, examples: Examples) -> Predict:
        """The network for `denoise`, where condition i is example i, and -1 - i is that without its caption."""

        def predict_rows(latents: Tensor, timesteps: Tensor, conditions: Tensor) -> Tensor:
            captions = torch.where(conditions < 0, 0, examples.tensors["caption"][conditions])
            return predict(self.model, latents, timesteps, self.prompts(examples, captions))

        return predict_rows
