"""Pictures with captions on a Stable Diffusion folder: CLIP's text embeddings, computed once, steer the UNet."""

from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from difffit_core.base_models import BaseModelEntry
from difffit_core.dataset import Item
from difffit_core.errors import ModelError
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

    def preview(self, examples: Examples, stem: Path) -> tuple[Path, list[str]]:
        """A picture for each of a few captions, one below the other, from the same seeds at every step."""
        rows = torch.arange(min(PREVIEW_CAPTIONS, len(examples)), device=self.device)
        spec = GenerationSpec(
            labels=rows.tolist(),
            steps=self.h.sample_steps,
            guidance_scale=self.h.guidance_scale,
            seed=self.spec.seed,
            scheduler=self.spec.defaults.scheduler,
        )
        channels, height, width = examples.tensors["mean"].shape[2:]
        latents = denoise(self.sampler(examples), rows, -1 - rows, (channels, height, width), self.base.path, spec)
        path = stem.with_suffix(".png")
        grid(decode(self.vae, latents), 1).save(path)
        return path, [examples.items[row].caption for row in rows.tolist()]

    def sampler(self, examples: Examples) -> Predict:
        """The network for `denoise`, where condition i is example i, and -1 - i is that without its caption."""

        def predict(latents: Tensor, timesteps: Tensor, conditions: Tensor) -> Tensor:
            captions = torch.where(conditions < 0, 0, examples.tensors["caption"][conditions])
            output: Tensor = self.model(latents, timesteps, examples.tensors["text"][captions]).sample
            return output

        return predict


def load_part(kind: Any, base: Path, name: str) -> Any:
    """The model in the folder `name` of a base, in fp32, frozen; raises ModelError where it cannot be read."""
    try:
        model = kind.from_pretrained(base / name, use_safetensors=True).float()
    except (OSError, ValueError) as error:
        raise ModelError(f"The {name} of {base.name} cannot be loaded: {error}") from error
    return model.requires_grad_(False).eval()
