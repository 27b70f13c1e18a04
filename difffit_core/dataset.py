"""A staged dataset folder (`index.jsonl` and images): its pictures, its labels and its fixed held-out split."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from difffit_core.errors import DatasetError
from difffit_core.spec import DatasetSummary, content_sha256

INDEX = "index.jsonl"


@dataclass(frozen=True)
class Item:
    """One image of a dataset."""

    file: str
    label: str
    sha256: str


def read_index(folder: Path) -> list[Item]:
    """The items of a staged dataset, in the order of its index; raises DatasetError with the line that is wrong."""
    items = []
    try:
        lines = (folder / INDEX).read_text().splitlines()
    except OSError as error:
        raise DatasetError(f"The dataset has no readable {INDEX}: {error}") from error
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            items.append(Item(row["file"], row["label"], row["sha256"]))
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(f"Line {number} of {INDEX} is not an image entry: {error!r}") from error
    return items


def summarize(items: Iterable[Item]) -> DatasetSummary:
    """Counts per class, in the order of the class names, and the content hash."""
    counts: dict[str, int] = defaultdict(int)
    items = list(items)
    for item in items:
        counts[item.label] += 1
    return DatasetSummary(sha256=content_sha256((i.label, i.sha256) for i in items), classes=dict(sorted(counts.items())))


def index_class_folders(folder: Path) -> DatasetSummary:
    """Write the index of a folder of class folders in place, so that it can be trained on without the service."""
    items = []
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in {".png", ".jpg", ".jpeg", ".webp"}):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        items.append(Item(str(path.relative_to(folder)), path.parent.name, digest))
    (folder / INDEX).write_text("".join(json.dumps(vars(item)) + "\n" for item in items))
    return summarize(items)


def split(items: list[Item], validation_fraction: float) -> tuple[list[Item], list[Item]]:
    """(train, held out), class by class. It depends on the contents alone, so that jobs on one dataset can be compared.

    A class gives the rounded share of its images, always leaving one to train on.
    """
    by_class: dict[str, list[Item]] = defaultdict(list)
    for item in sorted(items, key=lambda item: (item.label, item.sha256, item.file)):
        by_class[item.label].append(item)
    train: list[Item] = []
    held_out: list[Item] = []
    for members in by_class.values():
        count = min(round(len(members) * validation_fraction), len(members) - 1)
        held_out += members[:count]
        train += members[count:]
    return train, held_out


def load_picture(path: Path, size: int) -> Tensor:
    """An image as `[3, size, size]` floats in [-1, 1]: transparency on white, shorter side fitted, centre cropped."""
    with Image.open(path) as opened:
        upright = ImageOps.exif_transpose(opened)
        if upright.has_transparency_data:
            rgba = upright.convert("RGBA")
            upright = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        square = ImageOps.fit(upright.convert("RGB"), (size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 127.5 - 1.0
