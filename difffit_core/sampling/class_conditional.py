"""Pictures of classes with a DiT."""

import torch
from PIL import Image
from torch import nn

from difffit_core.adapters.file import Adapter
from difffit_core.errors import SpecError
from difffit_core.families.dit.network import load_autoencoder
from difffit_core.families.dit.positions import resize
from difffit_core.runtime.devices import inference_autocast
from difffit_core.sampling.denoising import decode, sample_latents
from difffit_core.sampling.generator import Generator
from difffit_core.spec.catalog import BaseModelEntry
from difffit_core.spec.generation import GenerationSpec


class ClassConditionalGenerator(Generator):
    """A DiT, whose class table and table of positions change with the adapter."""

    most_at_once = 64

    def __init__(self, base: BaseModelEntry, device: str = "auto") -> None:
        super().__init__(base, device)
        self.vae = load_autoencoder(base.path).to(self.device)

    def modules(self) -> list[nn.Module]:
        return [*super().modules(), self.vae]

    def put(self, adapter: Adapter, strength: float) -> None:
        super().put(adapter, strength)
        self._set_resolution(adapter.header.resolution)
        self.class_names = adapter.header.class_names

    def remove(self) -> None:
        super().remove()
        self.class_names = self.base.class_names()
        self._set_resolution(self.base.image_size())

    def _set_resolution(self, pixels: int | None) -> None:
        """Make pictures of the size that an adapter was trained on."""
        if pixels is not None:
            resize(self.network, pixels // self.base.pixels_per_latent())

    def images(self, spec: GenerationSpec, condition: Image.Image | None = None) -> list[Image.Image]:
        if spec.prompts:
            raise SpecError(
                f"{self.base.id} draws classes: give labels, not prompts.", code="not_for_this_model", param="prompts"
            )
        if condition is not None:
            raise self.takes_no_condition()
        if not all(0 <= label < len(self.class_names) for label in spec.labels):
            raise SpecError(f"Labels must be 0 to {len(self.class_names) - 1}.", code="unknown_label", param="labels")
        self.use(self._adapter, spec.adapter_strength)
        at_once = self.at_once(self.size(spec))
        pictures: list[Image.Image] = []
        with torch.inference_mode(), inference_autocast(self.device):
            for start in range(0, len(spec.labels), at_once):
                portion = {"labels": spec.labels[start : start + at_once], "seed": spec.seed + start}
                pictures += decode(self.vae, sample_latents(self.network, self.base.path, spec.model_copy(update=portion)))
        return pictures
