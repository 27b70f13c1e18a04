"""Class folders: a file's label is the name of the folder that it lies in."""

from pathlib import PurePosixPath

from worker.layouts.files import Files
from worker.layouts.layout import Format, Layout
from worker.layouts.metadata import LINES


def read(files: Files, layout: Layout) -> None:
    wrapper = _wrapper(list(files.files))
    for name in files.files:
        folder = str(PurePosixPath(name).parent)
        if folder in {".", wrapper}:
            message = f"The file lies in no class folder. Move it into one, or name its label in a {LINES}."
            layout.refuse(name, "no_label", message)
        else:
            layout.add(name, PurePosixPath(folder).name)


def _wrapper(names: list[str]) -> str | None:
    """The one folder around all class folders, if there is one."""
    paths = [PurePosixPath(name) for name in names]
    tops = {path.parts[0] for path in paths}
    return tops.pop() if len(tops) == 1 and any(len(path.parts) > 2 for path in paths) else None


FORMAT = Format("folders", marks=((),), read=read)
