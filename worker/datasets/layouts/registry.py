"""Which layout an upload has: the one that the user names, or the first whose marks are all there."""

from collections.abc import Iterable

from difffit_core.errors import DatasetError
from worker.datasets.archives.archives import UnpackedFile
from worker.datasets.layouts import (
    alpaca,
    artbench10,
    caltech101,
    captions,
    cars,
    chat,
    coco_stuff,
    completions,
    cub200,
    df20m,
    flowers102,
    folders,
    food101,
    metadata,
    pictures,
    sun397,
)
from worker.datasets.layouts.files import Files
from worker.datasets.layouts.layout import Annotation, Format, Layout

# In the order in which they are tried: what a user wrote comes first, and class folders are what is left.
PUBLISHED = (food101, sun397, df20m, cub200, flowers102, cars, caltech101, artbench10, coco_stuff)
MODULES = (metadata, *PUBLISHED, chat, completions, alpaca, captions, pictures, folders)
FORMATS: dict[str, Format] = {module.FORMAT.name: module.FORMAT for module in MODULES}


def read_layout(upload: list[UnpackedFile], name: str | None = None) -> Layout:
    """The annotations of an upload's files, by the format `name` or by the one that is recognised.

    Raises DatasetError: `missing_file`, which names it, `invalid_metadata_file`, `metadata_too_large`, `too_many_examples`.
    """
    files = Files(upload)
    fitting = (format for format in FORMATS.values() if not _missing(files, format) and format.fits(files))
    chosen = FORMATS[name] if name is not None else next(fitting)
    missing = _missing(files, chosen)
    if missing:
        raise DatasetError(
            f"This is not {chosen.name} as its authors distribute it: there is no {missing[0]} in the archive. "
            "Add it, or leave `format` out.",
            code="missing_file",
            param="format",
        )
    layout = Layout(chosen.name, chosen.published, chosen.frame)
    chosen.read(files, layout)
    layout.refuse_rest(files.files)
    return layout


def _missing(files: Files, format: Format) -> list[str]:
    """The marks that are not there, of the variant that lacks fewest."""
    return min(([mark for mark in variant if files.find(mark) is None] for variant in format.marks), key=len)


def compare_with_published(layout: Layout, annotations: Iterable[Annotation]) -> None:
    """Warn where the pictures that can be used are not as many as the authors publish."""
    published, usable = layout.published, list(annotations)
    if published is None or not usable:
        return
    classes = len({said.label for said in usable} - {""})
    if classes != published.classes:
        layout.warn("class_count", f"There are {classes} classes; the authors publish {published.classes}.")
    if len(usable) != published.images:
        layout.warn("image_count", f"There are {len(usable)} images that can be used; the authors publish {published.images}.")
    without = sum(not said.split for said in usable)
    if published.splits and without:
        layout.warn("no_split", f"{without} images are in no list of the official split; jobs may train on them.")
    for split, expected in published.splits.items():
        count = sum(said.split == split for said in usable)
        if count != expected and without < len(usable):
            layout.warn("split_count", f"There are {count} images in {split}; the authors publish {expected}.")
