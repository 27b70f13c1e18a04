"""CUB-200-2011 (Wah et al., 2011): four lists that speak of images and classes by number, and the images in class folders."""

from worker.datasets.layouts.files import Files
from worker.datasets.layouts.layout import Format, Layout, Published, Row

LISTS = ("images.txt", "image_class_labels.txt", "classes.txt", "train_test_split.txt")


def read(files: Files, layout: Layout) -> None:
    root = files.need("train_test_split.txt").removesuffix("train_test_split.txt")
    layout.lists = {files.need(root + name) for name in LISTS}
    images, labels, classes, in_train = (_table(files, layout, root + name) for name in LISTS)
    rows = []
    for number, path in images.items():
        label = classes.get(labels.get(number, ""), "").partition(".")[2]  # `001.Black_footed_Albatross`
        split = {"1": "train", "0": "test"}.get(in_train.get(number, ""), "")
        rows.append(Row(f"{root}images.txt", f"{root}images/{path}", label, split))
    layout.take(rows, files.files)


def _table(files: Files, layout: Layout, source: str) -> dict[str, str]:
    """Lines of a number and what is said of it."""
    table = {}
    for number, line in files.lines(source):
        key, _, value = line.partition(" ")
        if key.isdecimal() and value:
            table[key] = value.strip()
        else:
            layout.refuse_row(source, number, "The line is no number with a value.")
    return table


FORMAT = Format(
    "cub-200-2011",
    marks=((*LISTS, "images/"),),
    read=read,
    published=Published(classes=200, images=11_788, splits={"train": 5_994, "test": 5_794}),
)
