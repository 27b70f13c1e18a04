"""What all tasks on a diffusion model share: pictures become latents, noise is added, and the network's output is judged."""

from abc import abstractmethod
from functools import cached_property
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor

from difffit_core.data.buckets import Size
from difffit_core.data.dataset import Item
from difffit_core.data.latents import draw_latents, encode_pictures
from difffit_core.families.dit.network import latent_scale, load_autoencoder
from difffit_core.process.ddpm import add_noise, load_diffusion, per_sample_loss
from difffit_core.runtime.devices import training_autocast
from difffit_core.spec.catalog import BaseModelEntry
from difffit_core.spec.job import TrainingSpec
from difffit_core.tasks.task import SHOWN_NAMES, Examples, Progress, Task, Tensors


class DiffusionTask(Task):
    """A task on latents; what the network is told beside the noisy latents is the subclass's."""

    def __init__(self, spec: TrainingSpec, base: BaseModelEntry, device: torch.device) -> None:
        super().__init__(spec, base, device)
        self.diffusion = load_diffusion(base.path, spec.defaults.min_snr_gamma).to(device)
        self.scaling, self.channels = latent_scale(base.path)

    def warnings(self, items: list[Item]) -> list[str]:
        resolution = self.h.resolution
        assert resolution is not None
        keeps_ratio = self.h.aspect == "buckets"
        small = [
            i.name for i in items if 0 < (i.width * i.height if keeps_ratio else min(i.width, i.height) ** 2) < resolution**2
        ]
        if not small:
            return []
        return [
            f"{len(small)} of {len(items)} pictures are smaller than {resolution} pixels and are enlarged, so that the model "
            f"learns to draw blurred ones: {', '.join(small[:SHOWN_NAMES])}. Use larger ones, or a smaller resolution."
        ]

    def use_gradient_checkpointing(self) -> None:
        self.model.enable_gradient_checkpointing()

    def load_frozen(self) -> None:
        pass

    @cached_property
    def vae(self) -> AutoencoderKL:
        """On the device until it is released."""
        return load_autoencoder(self.base.path).to(self.device)

    def release(self) -> None:
        self.__dict__.pop("vae", None)

    def encode(self, items: list[Item], folder: Path, size: Size | None, progress: Progress) -> Tensors:
        """`mean` and `std` `[N, 2, C, H, W]` (upright, mirrored) of the pictures, and what `encode_conditions` makes."""
        assert size is not None
        conditions = self.encode_conditions(items, folder, size)
        return conditions | encode_pictures([folder / i.file for i in items], self.vae, size, progress)

    @abstractmethod
    def encode_conditions(self, items: list[Item], folder: Path, size: Size) -> Tensors:
        """What the network is told of each item, on the CPU; condition pictures are brought to `size`."""

    def blank(self, count: int) -> Examples:
        assert self.h.resolution is not None
        side = self.h.resolution // self.base.pixels_per_latent()
        latents = {name: torch.zeros(count, 2, self.channels, side, side) for name in ("mean", "std")}
        return Examples([], latents | self.blank_conditions(count))

    @abstractmethod
    def blank_conditions(self, count: int) -> Tensors:
        """The same of `encode_conditions`."""

    def draw(self, examples: Examples, batch: int, generator: torch.Generator) -> Tensors:
        latents = examples.tensors["mean"].shape[2:]
        return {
            "mirrored": torch.randint(0, 2, (batch,), generator=generator) * int(self.h.horizontal_flip),
            "posterior_noise": torch.randn(batch, *latents, generator=generator),
            "noise": torch.randn(batch, *latents, generator=generator),
            "timesteps": torch.randint(0, self.diffusion.steps, (batch,), generator=generator),
            "dropped": torch.rand(batch, generator=generator) < self.h.label_dropout,
        }

    def fixed_draw(self, examples: Examples, batch: int, generator: torch.Generator) -> Tensors:
        latents = examples.tensors["mean"].shape[2:]
        stride = self.diffusion.steps / batch
        return {
            "mirrored": torch.zeros(batch, dtype=torch.long),
            "posterior_noise": torch.zeros(batch, *latents),
            "timesteps": (torch.randperm(batch, generator=generator) * stride + stride / 2).long(),
            "noise": torch.randn(batch, *latents, generator=generator),
            "dropped": torch.zeros(batch, dtype=torch.bool),
        }

    def loss(self, examples: Examples, indices: Tensor, drawn: Tensors) -> Tensor:
        noise, timesteps = drawn["noise"], drawn["timesteps"]
        latents = draw_latents(examples.tensors, indices, drawn["mirrored"], drawn["posterior_noise"], self.scaling)
        noisy = add_noise(self.diffusion, latents, noise, timesteps)
        with training_autocast(self.device):
            output = self.predict(examples, indices, drawn, noisy)
        return per_sample_loss(self.diffusion, output.float(), latents, noise, timesteps)

    @abstractmethod
    def sample(self, examples: Examples, seed: int) -> list[Image.Image]:
        """A picture for each example, of which only its conditions are read; picture i is from noise `seed + i`."""

    @abstractmethod
    def predict(self, examples: Examples, indices: Tensor, drawn: Tensors, noisy: Tensor) -> Tensor:
        """The network's output `[B, C or 2 C, H, W]` for `noisy` `[B, C, H, W]`."""
