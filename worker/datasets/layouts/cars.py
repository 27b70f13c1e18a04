"""Stanford Cars (Krause et al., 3DRR 2013): the devkit's MATLAB files, with the images in two folders or in one.

The devkit's own list of the test images has no classes; the authors give those in cars_test_annos_withlabels.mat.
"""

from collections.abc import Iterator
from typing import Any

from worker.datasets.layouts.files import Files, unreadable
from worker.datasets.layouts.layout import Format, Layout, Published, Row

META = "cars_meta.mat"
ALL = "cars_annos.mat"
TRAIN, TEST = "cars_train_annos.mat", "cars_test_annos_withlabels.mat"
TEST_UNLABELLED = "cars_test_annos.mat"


def read(files: Files, layout: Layout) -> None:
    together = files.find(ALL)
    layout.lists = {found for end in (META, ALL, TRAIN, TEST, TEST_UNLABELLED) if (found := files.find(end)) is not None}
    if together is not None:
        root = files.need("car_ims/").removesuffix("car_ims/")
        annotations, classes = files.matlab(together, "annotations", "class_names")
        rows = [_row(together, one, classes, root, "relative_im_path") for one in annotations]
        layout.take(rows, files.files)
        return
    (classes,) = files.matlab(files.need(META), "class_names")
    layout.take(_part(files, files.need(TRAIN), files.need("cars_train/"), classes, "train"), files.files)
    test, images = files.find(TEST), files.find("cars_test/")
    if test is not None:
        layout.take(_part(files, test, images or "cars_test/", classes, "test"), files.files)
    elif images is not None:
        layout.warn("missing_list", f"Without {TEST} the classes of the images in {images} are not known.")


def _part(files: Files, source: str, folder: str, classes: list[Any], split: str) -> Iterator[Row]:
    (annotations,) = files.matlab(source, "annotations")
    for one in annotations:
        row = _row(source, one, classes, folder, "fname")
        yield Row(row.source, row.file, row.label, split)


def _row(source: str, annotation: Any, classes: list[Any], folder: str, name: str) -> Row:
    """A struct with the fields `class`, `fname` or `relative_im_path`, and `test` where the list is that of all images."""
    try:
        number = annotation["class"][0]  # from 1
        label = classes[number - 1] if number > 0 else None
        in_test = annotation["test"][0] if "test" in annotation else 0
        file = annotation[name]
    except (KeyError, IndexError, TypeError) as error:
        raise unreadable(source, "an annotation has no class or no file") from error
    if not isinstance(label, str) or not isinstance(file, str):
        raise unreadable(source, "a class or a file has no name")
    return Row(source, folder + file, label, "test" if in_test else "train")


FORMAT = Format(
    "stanford-cars",
    marks=((ALL, "car_ims/"), (META, TRAIN, "cars_train/")),
    read=read,
    published=Published(classes=196, images=16_185, splits={"train": 8_144, "test": 8_041}),
)
