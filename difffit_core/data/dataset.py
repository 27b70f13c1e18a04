"""A staged dataset folder (`index.jsonl` and files): its examples, and their fixed held-out split."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from difffit_core.data.buckets import Size, nearest_size
from difffit_core.data.contents import example_sha256, fields_of_all
from difffit_core.data.pictures import to_rgb, upright_size
from difffit_core.errors import DatasetError
from difffit_core.spec.conversations import Message, messages_of
from difffit_core.spec.job import DatasetSummary, content_sha256

INDEX = "index.jsonl"


@dataclass(frozen=True)
class Item:
    """One example of a dataset: a picture with its class or caption, or a conversation. Other fields are empty."""

    sha256: str  # of all that the example holds
    file: str = ""  # the picture, in the dataset's folder
    label: str = ""
    caption: str = ""
    condition: str = ""  # a second picture, that the first is drawn after: edges, a segmentation
    messages: list[Message] = field(default_factory=list, hash=False)  # of a language model
    split: str = ""  # train, validation or test, where the dataset's authors say so
    source: str = ""  # what the user called the picture's file, or the file and row of the text
    width: int = 0  # of the picture in pixels, upright; 0 where nobody has looked
    height: int = 0

    @property
    def name(self) -> str:
        """What to call it before people."""
        return self.source or self.file or f"{self.messages[0]['content'][:40]}…"


def read_index(folder: Path, required: Sequence[str] = ()) -> list[Item]:
    """The items of a staged dataset, in the order of its index, none of which lacks a `required` field.

    Raises DatasetError with the line that is wrong.
    """
    items = []
    try:
        lines = (folder / INDEX).read_text().splitlines()
    except OSError as error:
        raise DatasetError(f"The dataset has no readable {INDEX}: {error}") from error
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            known = {column.name: row[column.name] for column in fields(Item) if column.name in row}
            item = Item(**known | {"messages": messages_of(row)})
        except (ValueError, TypeError) as error:
            raise DatasetError(f"Line {number} of {INDEX} is not an example: {error}") from error
        missing = [name for name in required if not getattr(item, name)]
        if missing:
            raise DatasetError(
                f"Line {number} of {INDEX} has no {missing[0]!r}, which this kind of job trains on.", param="dataset"
            )
        items.append(item)
    return items


def summarize(items: Iterable[Item]) -> DatasetSummary:
    """Counts per class, in the order of the class names, and the content hash; examples without a class count as ""."""
    counts: dict[str, int] = defaultdict(int)
    items = list(items)
    for item in items:
        counts[item.label] += 1
    return DatasetSummary(
        sha256=content_sha256((i.label, i.sha256, i.split) for i in items),
        classes=dict(sorted(counts.items())),
        holds=fields_of_all(vars(item) for item in items),
    )


def index_class_folders(folder: Path) -> DatasetSummary:
    """Write the index of a folder of class folders in place, so that it can be trained on without the service."""
    pictures = sorted(p for p in folder.rglob("*") if p.suffix.lower() in {".png", ".jpg", ".jpeg", ".webp"})
    return write_index(folder, ({"file": str(p.relative_to(folder)), "label": p.parent.name} for p in pictures))


def write_index(folder: Path, rows: Iterable[dict[str, Any]]) -> DatasetSummary:
    """Write the index of examples given by the fields of `Item`; the files that they name lie in `folder`.

    A row may have a `prompt` and an `answer` in place of messages.
    """
    items = []
    for row in rows:
        pictures = {name: _file_sha256(folder / row[name]) for name in ("file", "condition") if row.get(name)}
        messages, others = messages_of(row), {name: value for name, value in row.items() if name not in {"prompt", "answer"}}
        digest = example_sha256(**pictures, caption=row.get("caption", ""), messages=messages)
        items.append(Item(**others | {"sha256": digest, "messages": messages}))
    lines = (json.dumps({name: value for name, value in vars(item).items() if value}) for item in items)
    (folder / INDEX).write_text("".join(f"{line}\n" for line in lines))
    return summarize(items)


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def split(items: list[Item], validation_fraction: float) -> tuple[list[Item], list[Item]]:
    """(train, held out), class by class. It depends on the contents alone, so that jobs on one dataset can be compared.

    Where the authors' test split is there, that is held out and all else is trained on. The held-out examples begin with the
    first of each class, then the second, so that a beginning of them shows all classes. Otherwise a class gives the rounded
    share of its images, always leaving one to train on.
    """
    test = [item for item in items if item.split == "test"]
    if 0 < len(test) < len(items):
        return sorted((item for item in items if item.split != "test"), key=_by_content), _class_by_class(test)
    by_class: dict[str, list[Item]] = defaultdict(list)
    for item in sorted(items, key=_by_content):
        by_class[item.label].append(item)
    train: list[Item] = []
    held_out: list[Item] = []
    for members in by_class.values():
        count = min(round(len(members) * validation_fraction), len(members) - 1)
        held_out += members[:count]
        train += members[count:]
    return train, held_out


def split_name(items: list[Item], validation_fraction: float) -> str:
    """What tells this split of a dataset from its others: `test` where it is the authors' own, else the share held out."""
    test = sum(item.split == "test" for item in items)
    return "test" if 0 < test < len(items) else f"{validation_fraction:g}"


def _by_content(item: Item) -> tuple[str, str, str]:
    return item.label, item.sha256, item.file


def _class_by_class(items: list[Item]) -> list[Item]:
    """The first item of each class, then the second of each, and so on."""
    seen: dict[str, int] = defaultdict(int)
    ranked = []
    for item in sorted(items, key=_by_content):
        ranked.append((seen[item.label], item))
        seen[item.label] += 1
    return [item for _, item in sorted(ranked, key=lambda ranked_item: ranked_item[0])]


def load_picture(path: Path, size: Size) -> Tensor:
    """The picture in a file as `pixels` has it."""
    with Image.open(path) as opened:
        return pixels(opened, size)


def pixels(picture: Image.Image, size: Size) -> Tensor:
    """A picture as `[3, H, W]` floats in [-1, 1]: as `to_rgb` has it, made just so large as to fill `size`, centre cropped."""
    fitted = ImageOps.fit(to_rgb(picture), size, Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(fitted)).permute(2, 0, 1).float() / 127.5 - 1.0


def by_size(
    items: Sequence[Item], folder: Path, sizes: Sequence[Size], progress: Callable[[int, int], None]
) -> dict[Size, list[Item]]:
    """The items by the size that their picture in `folder` is nearest to."""
    groups: dict[Size, list[Item]] = defaultdict(list)
    if len(sizes) == 1:
        return {sizes[0]: list(items)}
    for done, item in enumerate(items, start=1):
        with Image.open(folder / item.file) as picture:
            groups[nearest_size(upright_size(picture), sizes)].append(item)
        if done % 1000 == 0 or done == len(items):
            progress(done, len(items))
    return groups
