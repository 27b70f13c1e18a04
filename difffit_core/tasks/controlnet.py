"""Pictures with captions and condition pictures: a ControlNet learns to steer a Stable Diffusion UNet that stays as it is."""

from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Tensor

from difffit_core.dataset import Item, load_picture
from difffit_core.networks import load_part
from difffit_core.sampling import Predict
from difffit_core.tasks.task import Examples, Tensors
from difffit_core.tasks.text_to_image import TextToImage


class ControlNet(TextToImage):
    """The base is a Stable Diffusion folder with a `controlnet` in it; the loss goes through the frozen UNet."""

    def load_network(self) -> Any:
        return load_part(ControlNetModel, self.base.path, "controlnet")

    def load_frozen(self) -> None:
        super().load_frozen()
        self.unet = load_part(UNet2DConditionModel, self.base.path, "unet").to(self.device)
        if self.h.gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()

    def encode_conditions(self, items: list[Item], folder: Path) -> Tensors:
        """The captions, and `condition` `[N, 3, S, S]` as bytes."""
        assert self.h.resolution is not None
        pictures = [load_picture(folder / item.condition, self.h.resolution) for item in items]
        condition = torch.stack([((picture + 1) * 127.5).round().to(torch.uint8) for picture in pictures])
        return super().encode_conditions(items, folder) | {"condition": condition}

    def predict(self, examples: Examples, indices: Tensor, drawn: Tensors, noisy: Tensor) -> Tensor:
        captions = torch.where(drawn["dropped"], 0, examples.tensors["caption"][indices])
        condition = examples.tensors["condition"][indices]
        condition = torch.where(drawn["mirrored"][:, None, None, None] == 1, condition.flip(-1), condition)
        return self.steered(noisy, drawn["timesteps"], examples.tensors["text"][captions], condition)

    def steered(self, noisy: Tensor, timesteps: Tensor, text: Tensor, condition: Tensor) -> Tensor:
        """The UNet's output `[B, C, H, W]` with the ControlNet's residuals for `condition` `[B, 3, S, S]` in bytes."""
        down, middle = self.model(
            noisy, timesteps, encoder_hidden_states=text, controlnet_cond=condition.float() / 255, return_dict=False
        )
        output: Tensor = self.unet(
            noisy,
            timesteps,
            encoder_hidden_states=text,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        ).sample
        return output

    def sampler(self, examples: Examples) -> Predict:
        def predict(latents: Tensor, timesteps: Tensor, conditions: Tensor) -> Tensor:
            captions = torch.where(conditions < 0, 0, examples.tensors["caption"][conditions])
            pictures = torch.where(conditions < 0, -1 - conditions, conditions)
            text = examples.tensors["text"][captions]
            return self.steered(latents, timesteps, text, examples.tensors["condition"][pictures])

        return predict
