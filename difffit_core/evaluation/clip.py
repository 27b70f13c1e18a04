"""CLIP (Radford et al. 2021, arXiv 2103.00020) from a folder of transformers: features of pictures and of their captions."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

from difffit_core.errors import ModelError
from difffit_core.evaluation.weights import sha256_of


class Clip:
    """Both of CLIP's encoders with the folder's own preparation of pictures and texts."""

    def __init__(self, folder: Path) -> None:
        """Raises ModelError (`invalid_feature_weights`) where the folder cannot be loaded."""
        try:
            model: Any = CLIPModel.from_pretrained(folder, use_safetensors=True, local_files_only=True)
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self._processor: Any = CLIPImageProcessorPil.from_pretrained(folder, local_files_only=True)
            self.sha256 = sha256_of(*sorted(folder.glob("*.safetensors")))
        except (OSError, ValueError) as error:
            message = f"{folder} is no folder of a CLIP model that transformers can load: {error}"
            raise ModelError(message, code="invalid_feature_weights") from error
        self._model = model.float().eval()

    def to(self, device: torch.device) -> None:
        self._model.to(device)

    @torch.inference_mode()
    def features(self, pictures: Tensor) -> Tensor:
        """`[N, D]` on the CPU of uint8 pictures `[N, 3, H, W]`."""
        pixels = self._processor(images=list(pictures.cpu()), return_tensors="pt").pixel_values.to(self._model.device)
        with torch.autocast(self._model.device.type, enabled=False):
            features: Tensor = self._model.get_image_features(pixel_values=pixels).pooler_output
        return features.cpu()

    @torch.inference_mode()
    def text_features(self, captions: list[str]) -> Tensor:
        """`[N, D]` on the CPU; what is longer than CLIP reads is cut off."""
        length = self._model.config.text_config.max_position_embeddings
        tokens = self._tokenizer(captions, padding=True, truncation=True, max_length=length, return_tensors="pt")
        with torch.autocast(self._model.device.type, enabled=False):
            features: Tensor = self._model.get_text_features(**tokens.to(self._model.device)).pooler_output
        return features.cpu()
