"""Pictures with captions on a Stable Diffusion folder: CLIP's text embeddings, computed once, steer the UNet."""

from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from difffit_core.base_models import BaseModelEntry
from difffit_core.dataset import Item
from difffit_core.errors import ModelError
from difffit_core.networks import load_part
from difffit_core.sampling import Predict, decode, denoise, grid
from difffit_core.spec import GenerationSpec, TrainingSpec
from difffit_core.tasks.diffusion import DiffusionTask
from difffit_core.tasks.task import Examples, Tensors

PREVIEW_CAPTIONS = 4
EMBED_BATCH = 32


class TextToImage(DiffusionTask):
    """A caption is dropped by exchanging it for the empty one, which guidance needs as well."""

    def __init__(self, spec: TrainingSpec, base: BaseModelEntry, device: torch.device) -> None:
        super().__init__(spec, base, device)
        self.model = self.load_network()

    def load_network(self) -> Any:
        """The network that is trained."""
        return load_part(UNet2DConditionModel, self.base.path, "unet")

    def encode_conditions(self, items: list[Item], folder: Path) -> Tensors:
        """`text` `[U, L, D]`: the different captions, the first of which is empty; `caption` `[N]`: rows of it."""
        captions = ["", *sorted({item.caption for item in items})]
        row_of = {caption: row for row, caption in enumerate(captions)}
        return {"text": self._embed(captions), "caption": torch.tensor([row_of[item.caption] for item in items])}

    @torch.no_grad()
    def _embed(self, captions: list[str]) -> Tensor:
        """CLIP's last hidden states `[U, L, D]`; a longer caption than CLIP reads is cut off. No one else needs the encoder."""
        try:
            tokenizer = CLIPTokenizer.from_pretrained(self.base.path / "tokenizer")
        except (OSError, ValueError) as error:
            raise ModelError(f"The tokenizer of {self.base.path.name} cannot be loaded: {error}") from error
        encoder = load_part(CLIPTextModel, self.base.path, "text_encoder").to(self.device)
        embedded = []
        for start in range(0, len(captions), EMBED_BATCH):
            batch = captions[start : start + EMBED_BATCH]
            tokens = tokenizer(batch, padding="max_length", truncation=True, return_tensors="pt").input_ids
            embedded.append(encoder(tokens.to(self.device)).last_hidden_state.cpu())
        return torch.cat(embedded)

    def predict(self, examples: Examples, indices: Tensor, drawn: Tensors, noisy: Tensor) -> Tensor:
        captions = torch.where(drawn["dropped"], 0, examples.tensors["caption"][indices])
        output: Tensor = self.model(noisy, drawn["timesteps"], examples.tensors["text"][captions]).sample
        return output

    def sample(self, examples: Examples, seed: int) -> list[Image.Image]:
        assert self.h.resolution is not None
        rows = torch.arange(len(examples), device=self.device)
        spec = GenerationSpec(
            prompts=[item.caption for item in examples.items],
            steps=self.h.sample_steps,
            guidance_scale=self.h.guidance_scale,
            seed=seed,
            scheduler=self.spec.defaults.scheduler,
        )
        side = self.h.resolution // self.base.pixels_per_latent()
        shape = (int(self.vae.config.latent_channels), side, side)
        return decode(self.vae, denoise(self.sampler(examples), rows, -1 - rows, shape, self.base.path, spec))

    def preview(self, examples: Examples, stem: Path) -> tuple[Path, list[str]]:
        """A picture for each of a few captions, one below the other, from the same seeds at every step."""
        shown = Examples(examples.items[:PREVIEW_CAPTIONS], examples.tensors)
        path = stem.with_suffix(".png")
        grid(self.sample(shown, self.spec.seed), 1).save(path)
        return path, [item.caption for item in shown.items]

    def sampler(self, examples: Examples) -> Predict:
        """The network for `denoise`, where condition i is example i, and -1 - i is that without its caption."""

        def predict(latents: Tensor, timesteps: Tensor, conditions: Tensor) -> Tensor:
            captions = torch.where(conditions < 0, 0, examples.tensors["caption"][conditions])
            output: Tensor = self.model(latents, timesteps, examples.tensors["text"][captions]).sample
            return output

        return predict
