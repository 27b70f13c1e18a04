"""SUN397 (Xiao et al., CVPR 2010): folders of classes within folders of letters, and lists of ten partitions beside them.

The authors' ten partitions overlap, and each leaves most images out. The first one is taken as the split; the images in neither
of its lists belong to no part of it.
"""

from collections.abc import Iterator
from pathlib import PurePosixPath

from worker.datasets.layouts.files import Files
from worker.datasets.layouts.layout import Format, Layout, Published, Row

CLASSES = "ClassName.txt"
LISTS = {"train": "Training_01.txt", "test": "Testing_01.txt"}  # in the separate archive of the partitions


def read(files: Files, layout: Layout) -> None:
    root = files.need("a/abbey/").removesuffix("a/abbey/")
    source = files.need(CLASSES)
    layout.lists = {source}
    labels = {line.lstrip("/"): _label(line) for _, line in files.lines(source)}  # by folder below the root
    for split, end in LISTS.items():
        found = files.find(end)
        if found is not None:
            layout.lists.add(found)
            layout.take(_rows(found, files, root, labels, split, layout), files.files)
    for name in files.inside(root):
        folder = str(PurePosixPath(name).parent).removeprefix(root)
        if layout.knows(name):
            continue
        if folder in labels:
            layout.add(name, labels[folder])
        else:
            layout.refuse(name, "no_label", f"{CLASSES} does not name the folder of this file.")


def _label(line: str) -> str:
    """`/a/apartment_building/outdoor` is the class apartment_building/outdoor."""
    return line.lstrip("/").partition("/")[2]


def _rows(source: str, files: Files, root: str, labels: dict[str, str], split: str, layout: Layout) -> Iterator[Row]:
    """`/a/abbey/sun_aaalbzqrimafwbiv.jpg`"""
    for number, line in files.lines(source):
        folder = line.lstrip("/").rpartition("/")[0]
        if folder in labels:
            yield Row(source, root + line.lstrip("/"), labels[folder], split)
        else:
            layout.refuse_row(source, number, f"{CLASSES} does not name the folder of this file.")


FORMAT = Format(
    "sun397",
    marks=((CLASSES, "a/abbey/"),),
    read=read,
    published=Published(classes=397, images=108_754, splits={"train": 19_850, "test": 19_850}),
)
