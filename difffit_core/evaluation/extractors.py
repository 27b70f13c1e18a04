"""The networks that turn pictures into features, loaded by name, each with the hash of its weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from difffit_core.evaluation.inception import InceptionV3
from difffit_core.evaluation.metrics import ExtractorName, FeatureWeights, missing_weights
from difffit_core.evaluation.mobilenet import MobileNetV2
from difffit_core.evaluation.weights import fetch_inception, find_weights, read_weights, sha256_of

BATCH = 64  # pictures at once
SHOWN_HASH = 12  # characters of a weights' SHA-256 that tell one file from another


class FeatureExtractor(Protocol):
    """Anything that sees pictures."""

    @property
    def sha256(self) -> str:
        """Of its weights."""

    def features(self, pictures: Tensor) -> Tensor:
        """`[N, D]` on the CPU of uint8 pictures `[N, 3, H, W]` of any size."""

    def to(self, device: torch.device) -> None:
        """Compute there from now on."""


@dataclass(frozen=True)
class NetworkExtractor:
    """A network whose forward takes uint8 pictures, with the hash of its file. It computes in fp32 whatever autocast says."""

    network: nn.Module
    sha256: str

    @torch.inference_mode()
    def features(self, pictures: Tensor) -> Tensor:
        device = next(self.network.parameters()).device
        with torch.autocast(device.type, enabled=False):
            return torch.cat([self.network(part.to(device)).cpu() for part in pictures.split(BATCH)])

    def to(self, device: torch.device) -> None:
        self.network.to(device)


def load_extractor(name: ExtractorName, weights: FeatureWeights) -> FeatureExtractor:
    """The network, on the CPU; ModelError where its weights are missing, cannot be fetched or are another's."""
    match name:
        case "inception":
            if weights.inception is None:
                raise missing_weights(name, "no file is named")
            return load_network(InceptionV3(), fetch_inception(Path(weights.inception)))
        case "mobilenet":
            path = find_weights() if weights.mobilenet is None else Path(weights.mobilenet)
            return load_network(MobileNetV2(), path)
        case "clip":
            if weights.clip is None:
                raise missing_weights(name, "no folder is named")
            from difffit_core.evaluation.clip import Clip  # here, because who counts no captions should not load transformers

            return Clip(Path(weights.clip))


def load_network(network: nn.Module, weights: Path) -> NetworkExtractor:
    """The network with these weights, in evaluation mode."""
    read_weights(network, weights)
    return NetworkExtractor(network.requires_grad_(False).eval(), sha256_of(weights))


def pixels_of(pictures: list[Image.Image]) -> Tensor:
    """Pictures of one size as uint8 `[N, 3, H, W]`."""
    return torch.from_numpy(np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])).permute(0, 3, 1, 2)
