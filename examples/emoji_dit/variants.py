"""Variants of the drawings: each moved, scaled, turned, mirrored and recoloured at random, and rendered at 64 pixels on white.

What was done to a drawing is a vector that the transformer is told while it trains, so that it learns from the variants
without drawing any itself: the vector of a drawing as it is is zero (non-leaky augmentation, Karras et al. 2022, section 5).
"""

import io
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from examples.emoji_dit.drawings import Drawing
from examples.emoji_dit.sources import SIZE

# The random part of each number of a variant's vector, whose entries are about as large as 1.
SHIFT, SCALE, TURN = 5.0, 0.18, 18.0  # pixels, of the logarithm, degrees
FEATURES = ("mirrored", "right", "down", "wider", "taller", "turned", "hue_cosine", "hue_sine")
RECOLOURED = 0.35  # of the variants; the others keep their colours
ONE_WAY = (
    "alphanum",
    "arrow",
    "country-flag",
    "currency",
    "flag",
    "geometric",
    "keycap",
    "math",
    "punctuation",
    "time",
    "zodiac",
)
CHUNK = 64  # drawings a process renders at a time


def draw_features(drawings: list[Drawing], number: int) -> Tensor:
    """Vectors `[N, 8]` of variant `number` of every drawing, each about within [-1, 1]; those of variant 0 are zero."""
    if number == 0:
        return torch.zeros(len(drawings), len(FEATURES))
    generator = torch.Generator().manual_seed(number)
    features = torch.empty(len(drawings), len(FEATURES)).uniform_(-1, 1, generator=generator)
    one_way = torch.tensor([drawing.subgroup in ONE_WAY for drawing in drawings])
    features[:, 0] = (features[:, 0] > 0) & ~one_way
    hue = features[:, 6] * torch.pi
    recoloured = torch.rand(len(drawings), generator=generator) < RECOLOURED
    features[:, 6] = torch.where(recoloured, hue.cos() - 1, 0.0)
    features[:, 7] = torch.where(recoloured, hue.sin(), 0.0)
    return features


def render(drawing: Drawing, features: list[float]) -> NDArray[np.uint8]:
    """A variant `[64, 64, 3]`."""
    import resvg_py  # beside the environment's packages: `make emoji-dit` installs it

    mirrored, right, down, wider, taller, turned, cosine, sine = features
    half, (width, height) = SIZE / 2, drawing.size
    across = float(np.exp(SCALE * wider)) * (-1 if mirrored else 1)
    along = float(np.exp(SCALE * taller))
    moved = f"translate({half + SHIFT * right} {half + SHIFT * down}) rotate({TURN * turned}) scale({across} {along})"
    picture = resvg_py.svg_to_bytes(
        svg_string=(
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="0 0 {SIZE} {SIZE}"><g transform="{moved} translate({-half} {-half})">'
            f'<svg width="{SIZE}" height="{SIZE}" viewBox="0 0 {width} {height}">{drawing.body}</svg></g></svg>'
        ),
        width=SIZE,
        height=SIZE,
        background="#ffffff",
        skip_system_fonts=True,
    )
    with Image.open(io.BytesIO(bytes(picture))) as opened:
        pixels: NDArray[np.uint8] = np.asarray(opened.convert("RGB"))
    return turn_hue(pixels, cosine + 1, sine)


def turn_hue(pixels: NDArray[np.uint8], cosine: float, sine: float) -> NDArray[np.uint8]:
    """Rotate the colours of `[H, W, 3]` about the axis of greys, so that white stays white."""
    if sine == 0:
        return pixels
    third, cross = (1 - cosine) / 3, sine / 3**0.5
    row = [cosine + third, third - cross, third + cross]
    matrix = np.array([row, row[2:] + row[:2], row[1:] + row[:1]])
    turned: NDArray[np.float64] = (pixels @ matrix.T).round().clip(0, 255)
    return turned.astype(np.uint8)


def render_chunk(drawings: list[Drawing], features: list[list[float]]) -> NDArray[np.uint8]:
    return np.stack([render(drawing, numbers) for drawing, numbers in zip(drawings, features, strict=True)])


class Variants:
    """Rendered pictures of `count` variants of each drawing, in files under `folder`; made by all cores in the background."""

    def __init__(self, drawings: list[Drawing], count: int, folder: Path) -> None:
        self.features = [draw_features(drawings, number) for number in range(count)]
        folder.mkdir(parents=True, exist_ok=True)
        self._files = [folder / f"{number}.npy" for number in range(count)]
        # A training that goes on meanwhile needs a core of its own.
        self._pool = ProcessPoolExecutor(max_workers=max(1, len(os.sched_getaffinity(0)) - 2))
        self._chunks = {
            number: [
                self._pool.submit(render_chunk, drawings[start : start + CHUNK], features[start : start + CHUNK].tolist())
                for start in range(0, len(drawings), CHUNK)
            ]
            for number, features in enumerate(self.features)
            if not self._files[number].exists()
        }

    def ready(self) -> list[int]:
        """The variants that can be had without waiting."""
        return [
            number
            for number, file in enumerate(self._files)
            if file.exists() or all(chunk.done() for chunk in self._chunks[number])
        ]

    def pictures(self, number: int) -> Tensor:
        """`[N, 3, 64, 64]` uint8, once they are rendered."""
        file = self._files[number]
        if not file.exists():
            with file.with_suffix(".part").open("wb") as part:
                np.save(part, np.concatenate([chunk.result() for chunk in self._chunks.pop(number)]))
            file.with_suffix(".part").rename(file)
        return torch.from_numpy(np.load(file)).permute(0, 3, 1, 2)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
