"""Class folders: a file's label is the name of the folder that it lies in."""

from collections import defaultdict
from pathlib import PurePosixPath

from worker.layouts.files import Files
from worker.layouts.layout import Format, Layout, some
from worker.layouts.metadata import LINES
from worker.layouts.parts import part_of, split_folders


def read(files: Files, layout: Layout) -> None:
    """Folders called train and test around those of classes are the split."""
    wrapper, parts = _wrapper(list(files.files)), split_folders(files.files)
    folders = defaultdict[str, set[str]](set)  # by label, without those of the split
    for name in files.files:
        folder, part = str(PurePosixPath(name).parent), part_of(name, parts)
        if folder in {".", wrapper} or f"{folder}/" in parts:
            message = f"The file lies in no class folder. Move it into one, or name its label in a {LINES}."
            layout.refuse(name, "no_label", message)
        else:
            label = PurePosixPath(folder).name
            folders[label].add(next((folder.removeprefix(prefix) for prefix in parts if name.startswith(prefix)), folder))
            layout.add(name, label, part)
    several = [label for label, found in sorted(folders.items()) if len(found) > 1]
    if several:
        layout.warn(
            "merged_folders",
            f"{len(several)} classes have pictures from several folders of one name: {some(several)}. "
            "Rename the folders where these are different things.",
        )


def _wrapper(names: list[str]) -> str | None:
    """The one folder around all class folders, if there is one."""
    paths = [PurePosixPath(name) for name in names]
    tops = {path.parts[0] for path in paths}
    return tops.pop() if len(tops) == 1 and any(len(path.parts) > 2 for path in paths) else None


FORMAT = Format("folders", marks=((),), read=read)
