"""Generate images from a base model or an adapter on it."""

from pathlib import Path

import torch
from diffusers import DiTTransformer2DModel
from PIL import Image

from difffit_core.adapter_file import Adapter, check_base, read_adapter
from difffit_core.base_models import BaseModelEntry
from difffit_core.devices import inference_autocast, pick_device
from difffit_core.dit import load_autoencoder, load_transformer
from difffit_core.errors import SpecError
from difffit_core.fitting import inject
from difffit_core.merging import MERGEABLE, Merge, check_mergeable, merge
from difffit_core.positions import resize
from difffit_core.sampling import decode, sample_latents
from difffit_core.spec import GenerationSpec


class Generator:
    """A base, loaded once, and the adapter in use, merged into its weights. The same spec gives the same pictures."""

    def __init__(self, base: BaseModelEntry, adapter: Path | None = None, device: str = "auto") -> None:
        """Load from disk. Raises ModelError or AdapterError where a file is missing, damaged or does not fit."""
        self.base = base
        self.device = pick_device(device)
        self.class_names = base.class_names()
        self._adapter: Adapter | None = None
        self._merge: Merge | None = None
        self._strength = 1.0
        self._transformer = self._load()
        self._vae = load_autoencoder(base.path).to(self.device)
        if adapter is not None:
            self.use(read_adapter(adapter))

    def _load(self) -> DiTTransformer2DModel:
        return load_transformer(self.base.path).requires_grad_(False).eval().to(self.device)

    def use(self, adapter: Adapter | None) -> None:
        """Generate with this adapter from now on, or with the base alone. Raises AdapterError where it does not fit."""
        if adapter is not None:
            check_base(adapter.header, self.base.sha256())
        self._remove()
        if adapter is not None:
            self._apply(adapter, 1.0)

    def _remove(self) -> None:
        if self._merge is not None:
            self._merge.unmerge()
        elif self._adapter is not None:  # one that cannot be merged goes with the model it is in
            self._transformer = self._load()
        self._adapter = self._merge = None
        self.class_names = self.base.class_names()
        self._set_resolution(self.base.image_size())

    def _apply(self, adapter: Adapter, strength: float) -> None:
        if adapter.header.method.type in MERGEABLE:
            self._merge = merge(self._transformer, adapter, strength, base_names=self.class_names)
        else:
            inject(self._transformer, adapter, self.class_names)
            self._transformer.eval().to(self.device)
        self._set_resolution(adapter.header.resolution)
        self._adapter, self._strength, self.class_names = adapter, strength, adapter.header.class_names

    def _set_resolution(self, pixels: int | None) -> None:
        """Make pictures of the size that an adapter was trained on."""
        if pixels is not None:
            resize(self._transformer, pixels // self.base.pixels_per_latent())

    def images(self, spec: GenerationSpec) -> list[Image.Image]:
        """One RGB picture for each label of `spec`. Raises SpecError for a label that the model does not have.

        Raises AdapterError for a strength other than 1 of an adapter that cannot be merged.
        """
        if not all(0 <= label < len(self.class_names) for label in spec.labels):
            raise SpecError(f"Labels must be 0 to {len(self.class_names) - 1}.", code="unknown_label", param="labels")
        if self._adapter is not None and spec.adapter_strength != self._strength:
            adapter = self._adapter
            check_mergeable(adapter)
            self._remove()
            self._apply(adapter, spec.adapter_strength)
        with torch.inference_mode(), inference_autocast(self.device):
            latents = sample_latents(self._transformer, self.base.path, spec)
        return decode(self._vae, latents)
