"""What a checked dataset is kept as: one tar that jobs stage, and a preview for people."""

import json
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from difffit_core.errors import DatasetError
from worker.datasets import contact_sheet
from worker.datasets.examples import Example, Picture
from worker.kit.image_pool import ImagePool, RefusedImage, Request

INDEX = "index.jsonl"
CONTENT = "plain.tar"  # the name of the object says that its pictures are PNGs of ours


def write_content(examples: list[Example], target: Path) -> None:
    """The staged dataset as one tar: index.jsonl, and the PNGs of the images, which are gone from where they were."""
    index, members = target.with_name(INDEX), dict[str, Picture]()
    with index.open("w", encoding="utf-8") as rows:
        for number, example in enumerate(examples):
            rows.write(json.dumps(_row(number, example, members)) + "\n")
    with tarfile.open(target, "w") as tar:
        _add(tar, index, INDEX)
        uses = Counter(picture.path for picture in members.values())  # several pictures may have one condition
        for name, picture in members.items():
            _add(tar, picture.path, name)
            uses[picture.path] -= 1
            if not uses[picture.path]:
                picture.path.unlink()  # there need be no room for all of them twice


def _row(number: int, example: Example, members: dict[str, Picture]) -> dict[str, Any]:
    """The row of the index, with the names that the pictures get in the tar, which it puts into `members`."""
    names = {}
    for field, picture, mark in (("file", example.picture, ""), ("condition", example.condition, "-condition")):
        if picture is not None:
            names[field] = f"{number:06d}{mark}.png"
            members[names[field]] = picture
    row = {name: value for name, value in (example.fields | names).items() if value}
    row |= {"source": example.source, "sha256": example.sha256}
    if example.picture is not None:
        row["width"], row["height"] = example.picture.image.plain
    if example.annotation.split:
        row["split"] = example.annotation.split
    return row


def _add(tar: tarfile.TarFile, path: Path, name: str) -> None:
    member = tarfile.TarInfo(name)
    member.size = path.stat().st_size
    with path.open("rb") as data:
        tar.addfile(member, data)


def make_plain(folder: Path, max_pixels: int) -> None:
    """Replace the pictures of a staged dataset, whatever they are, by PNGs of ours. Raises DatasetError."""
    index = folder / INDEX
    rows = [json.loads(line) for line in index.read_text(encoding="utf-8").splitlines()]
    places = [(row, field) for row in rows for field in ("file", "condition") if row.get(field)]
    sent = [folder / row[field] for row, field in places]
    plain = [folder / f"{number:06d}-plain.png" for number in range(len(places))]
    with ImagePool(folder, max_pixels) as pool:
        answers = pool.check(map(Request, sent, plain))
        for (row, field), path, answer in zip(places, plain, answers, strict=True):
            if isinstance(answer, RefusedImage):
                raise DatasetError(f"{row.get('source')}: {answer.message}", code=answer.code, param="dataset")
            row[field] = path.name
            if field == "file":
                row["width"], row["height"] = answer.plain
    for path in sent:
        path.unlink(missing_ok=True)
    index.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_preview(examples: list[Example], target: Path) -> bool:
    """A contact sheet of the first pictures of the first classes, each beside its condition; False without any picture."""
    rows = _chosen(examples)
    if rows:
        contact_sheet.contact_sheet([(name, [picture.path for picture in pictures]) for name, pictures in rows], target)
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
