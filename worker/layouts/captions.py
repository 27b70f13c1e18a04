"""Captioned pictures: the caption of `a.png` is what the text file `a.txt` beside it says."""

from pathlib import PurePosixPath

from worker.archives import refusal
from worker.layouts.files import Files
from worker.layouts.layout import EMPTY_CAPTION, MAX_CAPTION, Annotation, Format, Layout
from worker.layouts.parts import part_of, split_folders

SUFFIX = ".txt"
# A caption that is cut off here is still too long, however much white space ends it.
MOST_READ = 2 * MAX_CAPTION


def read(files: Files, layout: Layout) -> None:
    texts = {_stem(name): name for name in files.files if _is_text(name)}
    layout.lists = set(texts.values())
    captioned, parts = set(), split_folders(files.files)
    for name in files.files:
        if name in layout.lists:
            continue
        source = texts.get(_stem(name))
        if source is None:
            message = f"There is no {PurePosixPath(name).stem}{SUFFIX} beside it. Write the caption there."
            layout.refuse(name, "no_caption", message)
        else:
            captioned.add(source)
            _annotate(layout, name, source, files.text(source, MOST_READ), part_of(name, parts))
    for source in sorted(layout.lists - captioned):
        layout.bad_rows.append(refusal(source, "no_picture", "There is no picture of this name beside the text."))


def _annotate(layout: Layout, name: str, source: str, caption: str | None, part: str) -> None:
    if caption is None:
        layout.refuse(name, "invalid_caption", f"Its caption {source} is no text in UTF-8. Save it as that.")
    elif not caption.strip():
        layout.refuse(name, *EMPTY_CAPTION)
    else:
        layout.annotate(name, None, Annotation(caption=caption.rstrip(), split=part))


def _fits(files: Files) -> bool:
    """Whether at least half of the pictures have a text beside them: one stray text makes no captioned dataset."""
    texts = {_stem(name) for name in files.files if _is_text(name)}
    pictures = [name for name in files.files if not _is_text(name)]
    return bool(pictures) and 2 * sum(_stem(name) in texts for name in pictures) >= len(pictures)


def _is_text(name: str) -> bool:
    return name.lower().endswith(SUFFIX)


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


FORMAT = Format("captions", marks=((),), read=read, fits=_fits)
