"""Plain pictures, of which nothing is said: a few of one subject, without folders, lists or captions."""

from worker.datasets.layouts.files import Files
from worker.datasets.layouts.layout import Annotation, Format, Layout


def read(files: Files, layout: Layout) -> None:
    """Folders mean nothing where this layout is asked for by name."""
    for name in files.files:
        layout.annotate(name, None, Annotation())


def _fits(files: Files) -> bool:
    return bool(files.files) and not any("/" in name for name in files.files)


FORMAT = Format("pictures", marks=((),), read=read, fits=_fits)
