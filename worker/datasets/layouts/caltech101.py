"""Caltech-101 (Fei-Fei et al., 2004): class folders, one of them for the background, without a split.

The folder is 101_ObjectCategories in an archive of that name, which the authors put into another one.
"""

from pathlib import PurePosixPath

from worker.datasets.layouts.files import Files
from worker.datasets.layouts.layout import Format, Layout, Published

CLASSES = ("Faces_easy/", "Leopards/")  # no other dataset has both


def read(files: Files, layout: Layout) -> None:
    root = files.need(CLASSES[0]).removesuffix(CLASSES[0])
    for name in files.inside(root):
        folder = PurePosixPath(name.removeprefix(root)).parent
        if len(folder.parts) == 1:
            layout.add(name, folder.name)
        else:
            layout.refuse(name, "no_label", "The file lies in no class folder.")


FORMAT = Format("caltech-101", marks=(CLASSES,), read=read, published=Published(classes=102, images=9_144))
