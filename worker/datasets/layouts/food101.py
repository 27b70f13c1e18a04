"""Food-101 (Bossard et al., ECCV 2014): images in class folders, and lists of the split by class."""

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from worker.datasets.layouts.files import Files, unreadable
from worker.datasets.layouts.layout import Format, Layout, Published, Row

SPLITS = ("train", "test")


def read(files: Files, layout: Layout) -> None:
    images = files.need("images/")
    lists = {split: files.need(f"meta/{split}.json") for split in SPLITS}
    layout.lists = set(lists.values())
    for split, source in lists.items():
        layout.take(_rows(source, files.json(source), images, split), files.files)
    for name in files.inside(images):
        if not layout.knows(name):
            layout.add(name, PurePosixPath(name).parent.name)


def _rows(source: str, classes: Any, images: str, split: str) -> Iterator[Row]:
    """`{"apple_pie": ["apple_pie/1005649", …], …}`"""
    if not isinstance(classes, dict):
        raise unreadable(source, "it holds no classes")
    for label, names in classes.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise unreadable(source, f"the class {label!r} is no list of names")
        for name in names:
            yield Row(source, f"{images}{name}.jpg", label, split)


FORMAT = Format(
    "food-101",
    marks=(("images/", "meta/train.json", "meta/test.json"),),
    read=read,
    published=Published(classes=101, images=101_000, splits={"train": 75_750, "test": 25_250}),
)
