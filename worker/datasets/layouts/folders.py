"""Class folders: a file's label is the name of the folder that it lies in."""

from collections import defaultdict
from pathlib import PurePosixPath

from worker.datasets.layouts.files import Files
from worker.datasets.layouts.layout import Format, Layout, some
from worker.datasets.layouts.metadata import LINES
from worker.datasets.layouts.parts import part_of, split_folders


def read(files: Files, layout: Layout) -> None:
    """Folders called train and test around those of classes are the split."""
    wrappers, parts = _wrappers(list(files.files)), split_folders(files.files)
    folders = defaultdict[str, set[str]](set)  # by label, without those of the split
    for name in files.files:
        folder, part = str(PurePosixPath(name).parent), part_of(name, parts)
        if folder in wrappers or f"{folder}/" in parts:
            message = f"The file lies in no class folder. Move it into one, or name its label in a {LINES}."
            layout.refuse(name, "no_label", message)
        else:
            label = PurePosixPath(folder).name.strip()
            folders[label].add(next((folder.removeprefix(prefix) for prefix in parts if name.startswith(prefix)), folder))
            layout.add(name, label, part)
    several = [label for label, found in sorted(folders.items()) if len(found) > 1]
    if several:
        layout.warn(
            "merged_folders",
            f"{len(several)} classes have pictures from several folders of one name, spaces around it aside: {some(several)}. "
            "Rename the folders where these are different things.",
        )


def _wrappers(names: list[str]) -> set[str]:
    """The folders around all class folders, the archive itself among them: no class, whatever else lies in them."""
    paths, root, found = [PurePosixPath(name).parts for name in names], tuple[str, ...](), {"."}
    while len({path[len(root)] for path in paths if len(path) > len(root) + 1}) == 1:
        paths = [path for path in paths if len(path) > len(root) + 1]
        root = paths[0][: len(root) + 1]
        if not any(len(path) > len(root) + 1 for path in paths):
            break
        found.add("/".join(root))
    return found


FORMAT = Format("folders", marks=((),), read=read)
