"""What a checked dataset is kept as: one tar that jobs stage, and a preview for people."""

import json
import tarfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from difffit_core.errors import DatasetError
from worker import contact_sheet
from worker.examples import Example, Picture
from worker.image_pool import CheckedImage, ImagePool, Request


def write_content(examples: list[Example], target: Path) -> None:
    """The staged dataset as one tar: index.jsonl, and the images with the bytes that the user sent."""
    index, members = target.with_name("index.jsonl"), dict[str, Picture]()
    with index.open("w", encoding="utf-8") as rows:
        for number, example in enumerate(examples):
            rows.write(json.dumps(_row(number, example, members)) + "\n")
    with tarfile.open(target, "w") as tar:
        _add(tar, index, "index.jsonl")
        for name, picture in members.items():
            _add(tar, picture.path, name)


def _row(number: int, example: Example, members: dict[str, Picture]) -> dict[str, Any]:
    """The row of the index, with the names that the pictures get in the tar, which it puts into `members`."""
    names = {}
    for field, picture, mark in (("file", example.picture, ""), ("condition", example.condition, "-condition")):
        if picture is not None:
            names[field] = f"{number:06d}{mark}{picture.suffix}"
            members[names[field]] = picture
    row = {name: value for name, value in (example.fields | names).items() if value}
    row |= {"source": example.source, "sha256": example.sha256}
    if example.picture is not None:
        row |= {"width": example.picture.image.width, "height": example.picture.image.height}
    if example.annotation.split:
        row["split"] = example.annotation.split
    return row


def _add(tar: tarfile.TarFile, path: Path, name: str) -> None:
    member = tarfile.TarInfo(name)
    member.size = path.stat().st_size
    with path.open("rb") as data:
        tar.addfile(member, data)


def write_preview(examples: list[Example], folder: Path, target: Path, pool: ImagePool) -> bool:
    """A contact sheet of the first pictures of the first classes, each beside its condition; False without any picture.

    Thumbnails are made where images are decoded.
    """
    rows = _chosen(examples)
    thumbnails = {p: folder / f"thumbnail-{i}.png" for i, p in enumerate(p for _, pictures in rows for p in pictures)}
    answers = pool.check(Request(picture.path, thumbnail) for picture, thumbnail in thumbnails.items())
    for answer, picture in zip(answers, thumbnails, strict=True):
        if not isinstance(answer, CheckedImage):
            raise DatasetError(f"{picture.name}: {answer.message}", code=answer.code, param="file")
    if rows:
        contact_sheet.contact_sheet([(name, [thumbnails[p] for p in pictures]) for name, pictures in rows], target)
    return bool(rows)


def _chosen(examples: Iterable[Example]) -> list[tuple[str, list[Picture]]]:
    """(name, pictures) of each row of the sheet: a class, or as many pictures without one as fit."""
    by_class: dict[str, list[Picture]] = defaultdict(list)
    for example in examples:
        by_class[example.annotation.label] += [p for p in (example.picture, example.condition) if p is not None]
    without, columns = by_class.pop("", []), contact_sheet.PICTURES
    rows = [(name, pictures[:columns]) for name, pictures in sorted(by_class.items())]
    rows += [("", without[start : start + columns]) for start in range(0, len(without), columns)]
    return rows[: contact_sheet.CLASSES]
