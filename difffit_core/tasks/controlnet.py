"""Pictures with captions and condition pictures: a ControlNet learns to steer a Stable Diffusion UNet that stays as it is."""

from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from difffit_core.data.buckets import Size
from difffit_core.data.dataset import Item, load_picture
from difffit_core.families.networks import load_part, predict, steering
from difffit_core.sampling.denoising import Predict
from difffit_core.tasks.task import Examples, Tensors
from difffit_core.tasks.text_to_image import TextToImage


class ControlNet(TextToImage):
    """The model is the ControlNet of the base, or a copy of its UNet; the loss goes through the frozen UNet."""

    def load_frozen(self) -> None:
        super().load_frozen()
        self.unet = load_part(UNet2DConditionModel, self.base.path, "unet").to(self.device)
        if self.h.gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()

    def modules(self) -> list[nn.Module]:
        return [*super().modules(), self.unet]

    @property
    def denoiser(self) -> Any:
        return self.unet

    def encode_conditions(self, items: list[Item], folder: Path, size: Size) -> Tensors:
        """The captions, and `condition` `[N, 3, H, W]` as bytes."""
        pictures = [load_picture(folder / item.condition, size) for item in items]
        condition = torch.stack([((picture + 1) * 127.5).round().to(torch.uint8) for picture in pictures])
        return super().encode_conditions(items, folder, size) | {"condition": condition}

    def blank_conditions(self, count: int) -> Tensors:
        assert self.h.resolution is not None
        condition = torch.zeros(count, 3, self.h.resolution, self.h.resolution, dtype=torch.uint8)
        return super().blank_conditions(count) | {"condition": condition}

    def predict(self, examples: Examples, indices: Tensor, drawn: Tensors, noisy: Tensor) -> Tensor:
        captions = torch.where(drawn["dropped"], 0, examples.tensors["caption"][indices])
        condition = examples.tensors["condition"][indices]
        condition = torch.where(drawn["mirrored"][:, None, None, None] == 1, condition.flip(-1), condition)
        return self.steered(noisy, drawn["timesteps"], self.prompts(examples, captions), condition)

    def steered(self, noisy: Tensor, timesteps: Tensor, prompts: Tensors, condition: Tensor) -> Tensor:
        """The UNet's output `[B, C, H, W]` with the ControlNet's residuals for `condition` `[B, 3, H, W]` in bytes."""
        residuals = steering(self.model, noisy, timesteps, prompts, condition.float() / 255)
        return predict(self.unet, noisy, timesteps, prompts, residuals)

    def sampler(self, examples: Examples) -> Predict:
        def predict_rows(latents: Tensor, timesteps: Tensor, conditions: Tensor) -> Tensor:
            captions = torch.where(conditions < 0, 0, examples.tensors["caption"][conditions])
            pictures = torch.where(conditions < 0, -1 - conditions, conditions)
            return self.steered(latents, timesteps, self.prompts(examples, captions), examples.tensors["condition"][pictures])

        return predict_rows
