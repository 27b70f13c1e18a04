"""Moved, scaled, turned and mirrored copies of class folders, so that a model learns shapes and not its pictures by heart."""

import random
from pathlib import Path

from PIL import Image

COPIES = 8  # of each picture, the first of them as it is
SCALE = (0.8, 1.03)
TURN_DEGREES = 8
SHIFT_PIXELS = 3
OVERSAMPLE = 4  # turned and scaled at so many times the size, so that edges stay sharp
# Parts of the names of classes with a right way round: these are neither mirrored nor turned.
READ_ONE_WAY = (
    "alphanum", "arrow", "av-symbol", "currency", "flag", "gender", "geometric", "keycap", "math", "other-symbol",
    "punctuation", "religion", "time", "transport-sign", "warning", "zodiac",
)  # fmt: skip


def write_variants(pictures: Path, folder: Path) -> None:
    """Write `COPIES` of every picture of the class folders `pictures` as `folder/<class>/<name>-<copy>.png`."""
    for path in sorted(pictures.rglob("*.png")):
        one_way = any(part in path.parent.name for part in READ_ONE_WAY)
        target = folder / path.parent.name
        target.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as picture:
            for copy in range(COPIES):
                variant(picture, f"{path.stem}/{copy}", one_way).save(target / f"{path.stem}-{copy}.png")


def variant(picture: Image.Image, name: str, one_way: bool) -> Image.Image:
    """The copy called `<picture>/<copy>` of a square RGB picture on white; equal names give equal copies."""
    if name.endswith("/0"):
        return picture
    size = picture.width
    draw = random.Random(name)
    moved = picture.resize((OVERSAMPLE * size, OVERSAMPLE * size), Image.Resampling.BICUBIC)
    if not one_way and draw.random() < 0.5:
        moved = moved.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    scaled = round(size * draw.uniform(*SCALE))
    turn = 0.0 if one_way else draw.uniform(-TURN_DEGREES, TURN_DEGREES)
    moved = moved.rotate(turn, Image.Resampling.BICUBIC, fillcolor="white").resize((scaled, scaled), Image.Resampling.LANCZOS)
    left, top = ((size - scaled) // 2 + draw.randint(-SHIFT_PIXELS, SHIFT_PIXELS) for _ in range(2))
    sheet = Image.new("RGB", picture.size, "white")
    sheet.paste(moved, (left, top))
    return sheet
