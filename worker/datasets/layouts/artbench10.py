"""ArtBench-10 (Liao et al., 2022) as image folders: class folders within train/ and test/, or class folders and the CSV file.

The archives of 32 × 32 pixels, in the formats of CIFAR-10, are not read.
"""

from pathlib import PurePosixPath

from worker.datasets.layouts.files import Files
from worker.datasets.layouts.layout import Format, Layout, Published

CLASS = "ukiyo_e/"
CLASSES = (CLASS, "post_impressionism/")
TABLE = "ArtBench-10.csv"
SPLITS = ("train", "test")


def read(files: Files, layout: Layout) -> None:
    table = files.find(TABLE)
    layout.lists = {table} if table is not None else set()
    if all(files.find(f"{split}/{CLASS}") for split in SPLITS):
        for split in SPLITS:
            _folder(files, layout, files.need(f"{split}/{CLASS}").removesuffix(CLASS), {}, split)
    else:
        rows = files.rows(table, ("name", "split")) if table is not None else ()
        splits = {name: split for _, (name, split) in rows if split in SPLITS}
        _folder(files, layout, files.need(CLASS).removesuffix(CLASS), splits, "")


def _folder(files: Files, layout: Layout, root: str, splits: dict[str, str], split: str) -> None:
    for name in files.inside(root):
        path = PurePosixPath(name.removeprefix(root))
        if len(path.parts) == 2:
            layout.add(name, path.parent.name, splits.get(path.name, split))


FORMAT = Format(
    "artbench-10",
    marks=(tuple(f"{split}/{name}" for split in SPLITS for name in CLASSES), CLASSES),
    read=read,
    published=Published(classes=10, images=60_000, splits={"train": 50_000, "test": 10_000}),
)
