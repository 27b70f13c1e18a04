"""DF20M, Danish Fungi 2020 Mini (Picek et al., WACV 2022): one folder of images, and two CSV files of observations."""

from collections.abc import Iterator
from pathlib import PurePosixPath

from worker.datasets.layouts.files import Files
from worker.datasets.layouts.layout import Format, Layout, Published, Row

LISTS = {"train": "DF20M-train_metadata_PROD.csv", "test": "DF20M-public_test_metadata_PROD.csv"}


def read(files: Files, layout: Layout) -> None:
    sources = {split: files.need(end) for split, end in LISTS.items()}
    layout.lists = set(sources.values())
    # The lists have other folders than the archive, and `.jpg` where it has `.JPG`; the names are unique without both.
    by_stem = {PurePosixPath(name).stem: name for name in files.files if name not in layout.lists}
    for split, source in sources.items():
        layout.take(_rows(source, files, by_stem, split), files.files)


def _rows(source: str, files: Files, by_stem: dict[str, str], split: str) -> Iterator[Row]:
    for _, (path, label) in files.rows(source, ("image_path", "scientificName")):
        name = PurePosixPath(path.replace("\\", "/"))
        yield Row(source, by_stem.get(name.stem, name.name), label, split)


FORMAT = Format(
    "df20m",
    marks=(tuple(LISTS.values()),),
    read=read,
    published=Published(classes=182, images=36_393, splits={"train": 32_753, "test": 3_640}),
)
