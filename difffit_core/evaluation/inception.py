"""Inception of 2015 (Szegedy et al., arXiv 1512.00567) as TensorFlow ran it: what defines FID. Names are torch-fidelity's.

It differs from torchvision's in its resizing, in average pools that leave padding out, and in a maximum pool in the last block.
"""

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INPUT_SIZE = 299  # pixels


class Conv(NamedTuple):
    """A convolution by the end of its name: width and kernel; padded where it keeps the size."""

    name: str
    outputs: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1


# What a branch of a block does to its input, in order: convolutions, several side by side, or a pool.
Step = Conv | tuple[Conv, ...] | str
Branch = list[Step]
SQUARE, WIDE, HIGH, SIDEWAYS, UPWARDS = (3, 3), (1, 7), (7, 1), (1, 3), (3, 1)

POOLS = {
    "average": partial(F.avg_pool2d, kernel_size=3, stride=1, padding=1, count_include_pad=False),
    "maximum": partial(F.max_pool2d, kernel_size=3, stride=1, padding=1),
    "halve": partial(F.max_pool2d, kernel_size=3, stride=2),
}


def fine(pooled: int) -> list[Branch]:
    """A block on 35 x 35 positions."""
    return [
        [Conv("branch1x1", 64)],
        [Conv("branch5x5_1", 48), Conv("branch5x5_2", 64, (5, 5))],
        [Conv("branch3x3dbl_1", 64), Conv("branch3x3dbl_2", 96, SQUARE), Conv("branch3x3dbl_3", 96, SQUARE)],
        ["average", Conv("branch_pool", pooled)],
    ]


def middle(width: int) -> list[Branch]:
    """A block on 17 x 17 positions, with kernels in one direction at a time."""
    double = [Conv("branch7x7dbl_1", width), Conv("branch7x7dbl_2", width, HIGH), Conv("branch7x7dbl_3", width, WIDE)]
    return [
        [Conv("branch1x1", 192)],
        [Conv("branch7x7_1", width), Conv("branch7x7_2", width, WIDE), Conv("branch7x7_3", 192, HIGH)],
        [*double, Conv("branch7x7dbl_4", width, HIGH), Conv("branch7x7dbl_5", 192, WIDE)],
        ["average", Conv("branch_pool", 192)],
    ]


def coarse(pool: str) -> list[Branch]:
    """A block on 8 x 8 positions."""
    split = (Conv("branch3x3_2a", 384, SIDEWAYS), Conv("branch3x3_2b", 384, UPWARDS))
    double = (Conv("branch3x3dbl_3a", 384, SIDEWAYS), Conv("branch3x3dbl_3b", 384, UPWARDS))
    return [
        [Conv("branch1x1", 320)],
        [Conv("branch3x3_1", 384), split],
        [Conv("branch3x3dbl_1", 448), Conv("branch3x3dbl_2", 384, SQUARE), double],
        [pool, Conv("branch_pool", 192)],
    ]


TO_MIDDLE: list[Branch] = [
    [Conv("branch3x3", 384, SQUARE, 2)],
    [Conv("branch3x3dbl_1", 64), Conv("branch3x3dbl_2", 96, SQUARE), Conv("branch3x3dbl_3", 96, SQUARE, 2)],
    ["halve"],
]
TO_COARSE: list[Branch] = [
    [Conv("branch3x3_1", 192), Conv("branch3x3_2", 320, SQUARE, 2)],
    [
        *(Conv("branch7x7x3_1", 192), Conv("branch7x7x3_2", 192, WIDE)),
        *(Conv("branch7x7x3_3", 192, HIGH), Conv("branch7x7x3_4", 192, SQUARE, 2)),
    ],
    ["halve"],
]
# Name, channels that come in, branches.
BLOCKS = [
    *(("Mixed_5b", 192, fine(32)), ("Mixed_5c", 256, fine(64)), ("Mixed_5d", 288, fine(64)), ("Mixed_6a", 288, TO_MIDDLE)),
    *(("Mixed_6b", 768, middle(128)), ("Mixed_6c", 768, middle(160)), ("Mixed_6d", 768, middle(160))),
    *(("Mixed_6e", 768, middle(192)), ("Mixed_7a", 768, TO_COARSE)),
    *(("Mixed_7b", 1280, coarse("average")), ("Mixed_7c", 2048, coarse("maximum"))),
]


class BasicConv2d(nn.Module):
    """A convolution without bias, its batch norm and ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int], stride: int = 1, padded: bool = True) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2) if padded and stride == 1 else (0, 0)
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Mixed(nn.Module):
    """Branches side by side, whose outputs are joined."""

    def __init__(self, inputs: int, branches: list[Branch]) -> None:
        super().__init__()
        self.branches = branches
        for branch in branches:
            channels = inputs
            for step in branch:
                if isinstance(step, str):
                    continue
                convolutions = (step,) if isinstance(step, Conv) else step
                for conv in convolutions:
                    self.add_module(conv.name, BasicConv2d(channels, conv.outputs, conv.kernel, conv.stride))
                channels = convolutions[-1].outputs  # only the last step of a branch is several

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self._run(branch, x) for branch in self.branches], 1)

    def _run(self, branch: Branch, x: Tensor) -> Tensor:
        for step in branch:
            if isinstance(step, str):
                x = POOLS[step](x)
            elif isinstance(step, Conv):
                x = self.get_submodule(step.name)(x)
            else:
                x = torch.cat([self.get_submodule(conv.name)(x) for conv in step], 1)
        return x


class InceptionV3(nn.Module):
    """Up to its 2048 pooled features; `fc` is in the file of weights and takes no part."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = BasicConv2d(3, 32, SQUARE, stride=2)
        self.Conv2d_2a_3x3 = BasicConv2d(32, 32, SQUARE, padded=False)
        self.Conv2d_2b_3x3 = BasicConv2d(32, 64, SQUARE)
        self.Conv2d_3b_1x1 = BasicConv2d(64, 80, (1, 1))
        self.Conv2d_4a_3x3 = BasicConv2d(80, 192, SQUARE, padded=False)
        for name, inputs, branches in BLOCKS:
            self.add_module(name, Mixed(inputs, branches))
        self.fc = nn.Linear(2048, 1008)

    def forward(self, pictures: Tensor) -> Tensor:
        """Features `[N, 2048]` of uint8 pictures `[N, 3, H, W]` of any size."""
        x = (resize_like_tensorflow(pictures.float(), INPUT_SIZE) - 128) / 128
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(POOLS["halve"](x)))
        x = POOLS["halve"](x)
        for name, _, _ in BLOCKS:
            x = self.get_submodule(name)(x)
        return x.mean(dim=(2, 3))


def resize_like_tensorflow(pictures: Tensor, size: int) -> Tensor:
    """Bilinear as TensorFlow 1 does it: output position i lies at i · (input / output), and nothing is smoothed."""
    rows, columns = (_interpolation(side, size).to(pictures) for side in pictures.shape[2:])
    return rows @ pictures @ columns.T


def _interpolation(side: int, size: int) -> Tensor:
    """`[size, side]`: the share of each input position in each output position."""
    at = torch.arange(size, dtype=torch.float32) * (side / size)
    low = at.long()
    share = at - low
    matrix = torch.zeros(size, side)
    matrix.scatter_add_(1, low[:, None], 1 - share[:, None])
    matrix.scatter_add_(1, (low + 1).clamp(max=side - 1)[:, None], share[:, None])
    return matrix
