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
from difffit_core.merging import MERGEABLE, Merge, merge
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

    def use(self, adapter: Adapter | None, strength: float = 1.0) -> None:
        """Generate with this adapter from now on, or with the base alone.

        Raises AdapterError where it does not fit, or cannot be merged and `strength` is not 1; then the base alone is left.
        """
        if adapter is self._adapter and strength == self._strength:
            return
        self._remove()
        if adapter is None:
            return
        check_base(adapter.header, self.base.sha256())
        if adapter.header.method.type in MERGEABLE or strength != 1:
            self._merge = merge(self._transformer, adapter, strength, base_names=self.class_names)
        else:
            inject(self._transformer, adapter, self.class_names)
            self._transformer.eval().to(self.device)
        self._set_resolution(adapter.header.resolution)
        self._adapter, self._strength, self.class_names = adapter, strength, adapter.header.class_names

    def _remove(self) -> None:
        if self._merge is not None:
            self._merge.unmerge()
        elif self._adapter is not None:  # one that cannot be merged goes with the model it is in
            self._transformer = self._load()
        self._adapter = self._merge = None
        self.class_names = self.base.class_names()
        self._set_resolution(self.base.image_size())

    def _set_resolution(self, pixels: int | None) -> None:
        """Make pictures of the size that an adapter was trained on."""
        if pixels is not None:
            resize(self._transformer, pixels // self.base.pixels_per_latent())

    def images(self, spec: GenerationSpec) -> list[Image.Image]:
        """One RGB picture for each label of `spec`, which also says how strong the adapter in use is.

        Raises SpecError for a label that the model does not have, and AdapterError as `use` does.
        """
        if not all(0 <= label < len(self.class_names) for label in spec.labels):
            raise SpecError(f"Labels must be 0 to {len(self.class_names) - 1}.", code="unknown_label", param="labels")
        self.use(self._adapter, spec.adapter_strength)
        with torch.inference_mode(), inference_autocast(self.device):
            latents = sample_latents(self._transformer, self.base.path, spec)
        return decode(self._vae, latents)
