"""Generate images from a base model or an adapter on it."""

from pathlib import Path

import torch
from PIL import Image

from difffit_core.adapter_file import apply_adapter
from difffit_core.base_models import BaseModelEntry
from difffit_core.devices import inference_autocast, pick_device
from difffit_core.dit import load_autoencoder, load_transformer
from difffit_core.errors import SpecError
from difffit_core.sampling import decode, sample_latents
from difffit_core.spec import GenerationSpec


class Generator:
    """A base with one adapter merged into its weights, ready to sample. The same spec gives the same pictures."""

    def __init__(self, base: BaseModelEntry, adapter: Path | None = None, device: str = "auto") -> None:
        """Load from disk. Raises ModelError or AdapterError where a file is missing, damaged or does not fit."""
        self.base = base
        self.class_names = base.class_names()
        self.device = pick_device(device)
        self._transformer = load_transformer(base.path)
        if adapter is not None:
            self.class_names = apply_adapter(self._transformer, adapter, base.sha256(), self.class_names)
        self._transformer.requires_grad_(False).eval().to(self.device)
        self._vae = load_autoencoder(base.path).to(self.device)

    def images(self, spec: GenerationSpec) -> list[Image.Image]:
        """One RGB picture for each label of `spec`. Raises SpecError for a label that the model does not have."""
        if not all(0 <= label < len(self.class_names) for label in spec.labels):
            raise SpecError(f"Labels must be 0 to {len(self.class_names) - 1}.", code="unknown_label", param="labels")
        with torch.inference_mode(), inference_autocast(self.device):
            latents = sample_latents(self._transformer, self.base.path, spec)
        return decode(self._vae, latents)
