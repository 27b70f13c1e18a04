"""Pictures of prompts with Stable Diffusion, steered by a condition picture where a ControlNet is in use."""

from typing import Any

from diffusers import UNet2DConditionModel
from PIL import Image
from torch import Tensor, nn

from difffit_core.adapters.file import Adapter
from difffit_core.adapters.subject import text_encoder_with
from difffit_core.data.buckets import Size
from difffit_core.data.dataset import pixels as pixels_of
from difffit_core.errors import SpecError
from difffit_core.families.networks import controlnet_of, load_part, predict, steering, told
from difffit_core.sampling.denoising import Predict
from difffit_core.sampling.prompted import PromptedGenerator
from difffit_core.spec.catalog import BaseModelEntry


class StableDiffusionGenerator(PromptedGenerator):
    """`network` is the UNet, or a ControlNet beside it: the base's own, or the copy of the UNet that an adapter belongs to."""

    def __init__(self, base: BaseModelEntry, device: str = "auto") -> None:
        super().__init__(base, device)
        self.unet, self._base_text = self.network, self.text
        if base.family == "controlnet":
            self.unet = load_part(UNet2DConditionModel, base.path, "unet").to(self.device)

    def modules(self) -> list[nn.Module]:
        return [*super().modules(), self.unet, self._base_text.encoder]

    @property
    def denoiser(self) -> Any:
        return self.unet

    @property
    def is_steered(self) -> bool:
        return self.network is not self.unet

    def put(self, adapter: Adapter, strength: float) -> None:
        if adapter.header.task.type == "controlnet" and not self.is_steered:
            self.network = controlnet_of(self.unet, self.base).to(self.device)
        is_subject = adapter.header.task.type == "dreambooth"
        text = text_encoder_with(adapter, self.base.path, self.device, strength) if is_subject else self.text
        super().put(adapter, strength)
        self.text = text

    def remove(self) -> None:
        super().remove()
        self.text = self._base_text
        if self.base.family == "controlnet":
            return
        if isinstance(self.network, UNet2DConditionModel):  # it may be loaded anew
            self.unet = self.network
        self.network = self.unet

    def check_condition(self, condition: Image.Image | None) -> None:
        if not self.is_steered:
            super().check_condition(condition)
        elif condition is None:
            raise SpecError(
                "A ControlNet draws after a condition picture; give one.", code="missing_field", param="condition_image"
            )

    def predictor(self, embedded: dict[str, Tensor], condition: Image.Image | None, size: Size) -> Predict:
        if condition is None:
            return super().predictor(embedded, condition, size)
        shown = (pixels_of(condition, size)[None].to(self.device) + 1) / 2  # [1, 3, H, W] in [0, 1]

        def predict_rows(latents: Tensor, timesteps: Tensor, rows: Tensor) -> Tensor:
            prompts = told(embedded, rows)
            picture = shown.expand(len(latents), -1, -1, -1)
            residuals = steering(self.network, latents, timesteps, prompts, picture)
            return predict(self.unet, latents, timesteps, prompts, residuals)

        return predict_rows
