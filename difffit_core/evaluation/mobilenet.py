"""MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381) up to its pooled features; it measures FD-MobileNetV2, offline.

FD-MobileNetV2 is the formula of FID (Heusel et al. 2017, arXiv 1706.08500) on this network, so its numbers must never be set
beside an FID.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEATURES = 1280
INPUT_SIZE = 224  # pixels, as in the network's own training
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Expansion, channels, repeats, first stride (Sandler et al., table 2).
STAGES = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]


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

    mean: Tensor
    std: Tensor

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
        for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def forward(self, pictures: Tensor) -> Tensor:
        """Features `[N, 1280]` of uint8 pictures `[N, 3, H, W]` of any size."""
        size = (INPUT_SIZE, INPUT_SIZE)
        resized = F.interpolate(pictures.float() / 255, size, mode="bilinear", align_corners=False, antialias=True)
        maps: Tensor = self.features((resized - self.mean) / self.std)  # [N, 1280, 7, 7]
        return maps.mean(dim=(2, 3))
