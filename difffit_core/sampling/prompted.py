"""Pictures of prompts: with PixArt, and what Stable Diffusion shares with it."""

from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from difffit_core.data.buckets import Size
from difffit_core.errors import SpecError
from difffit_core.families.dit.network import load_autoencoder
from difffit_core.families.networks import predict, told
from difffit_core.families.text_encoders import load_text_encoder
from difffit_core.runtime.devices import inference_autocast
from difffit_core.sampling.denoising import Predict, decode, denoise, learns_variance
from difffit_core.sampling.generator import Generator
from difffit_core.spec.catalog import BaseModelEntry
from difffit_core.spec.generation import GenerationSpec


class PromptedGenerator(Generator):
    """A network that is told prompts, with its text encoder and autoencoder."""

    most_at_once = 8

    def __init__(self, base: BaseModelEntry, device: str = "auto") -> None:
        super().__init__(base, device)
        self.text = load_text_encoder(base.path, self.device)
        self.vae = load_autoencoder(base.path).to(self.device)

    def modules(self) -> list[nn.Module]:
        return [*super().modules(), self.text.encoder, self.vae]

    @property
    def denoiser(self) -> Any:
        """The network that predicts noise."""
        return self.network

    def images(self, spec: GenerationSpec, condition: Image.Image | None = None) -> list[Image.Image]:
        if spec.labels:
            raise SpecError(
                f"{self.base.id} draws prompts and knows no classes: give prompts, not labels.",
                code="not_for_this_model",
                param="labels",
            )
        self.use(self._adapter, spec.adapter_strength)
        self.check_condition(condition)
        size = self.size(spec, condition)
        width, height = (side // self.base.pixels_per_latent() for side in size)
        at_once = self.at_once(size)
        prompts = list(dict.fromkeys([spec.negative_prompt, *spec.prompts]))
        embedded = {name: tensor.to(self.device) for name, tensor in self.text.embed(prompts).items()}
        predict = self.predictor(embedded, condition, size)
        pictures: list[Image.Image] = []
        with torch.inference_mode(), inference_autocast(self.device):
            for start in range(0, len(spec.prompts), at_once):
                chosen = spec.prompts[start : start + at_once]
                rows = torch.tensor([prompts.index(prompt) for prompt in chosen], device=self.device)
                seeds = spec.model_copy(update={"seed": spec.seed + start})
                shape = (int(self.vae.config.latent_channels), height, width)
                latents = denoise(
                    predict, rows, torch.zeros_like(rows), shape, self.base.path, seeds, learns_variance(self.denoiser)
                )
                pictures += decode(self.vae, latents)
        return pictures

    def check_condition(self, condition: Image.Image | None) -> None:
        """Raise SpecError where there is a condition picture that means nothing here, or none where it must be."""
        if condition is not None:
            raise self.takes_no_condition()

    def predictor(self, embedded: dict[str, Tensor], condition: Image.Image | None, size: Size) -> Predict:
        """The network for `denoise`, where condition i is row i of the embedded prompts."""

        def predict_rows(latents: Tensor, timesteps: Tensor, rows: Tensor) -> Tensor:
            return predict(self.denoiser, latents, timesteps, told(embedded, rows))

        return predict_rows
