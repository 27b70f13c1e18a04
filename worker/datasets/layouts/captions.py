"""Captioned pictures: the caption of `a.png` is what `a.txt`, `a.caption` or `a.png.txt` beside it says."""

from pathlib import PurePosixPath

from worker.datasets.archives.archives import refusal
from worker.datasets.layouts.files import Files
from worker.datasets.layouts.layout import EMPTY_CAPTION, MAX_CAPTION, Annotation, Format, Layout
from worker.datasets.layouts.parts import part_of, split_folders

SUFFIXES = (".txt", ".caption")  # of two for one picture the first is its caption
# A caption that is cut off here is still too long, however much white space ends it.
MOST_READ = 2 * MAX_CAPTION


def read(files: Files, layout: Layout) -> None:
    texts = _texts(files)
    layout.lists = {name for name in files.files if _is_text(name)}
    captioned, parts = set(), split_folders(files.files)
    for name in files.files:
        if name in layout.lists:
            continue
        source = _caption_of(name, texts)
        if source is None:
            message = f"There is no {PurePosixPath(name).stem}{SUFFIXES[0]} beside it. Write the caption there."
            layout.refuse(name, "no_caption", message)
        else:
            captioned.add(source)
            _annotate(layout, name, source, files.text(source, MOST_READ), part_of(name, parts))
    pictures = {key for name in files.files if not _is_text(name) for key in (name, _stem(name))}
    for source in sorted(layout.lists - captioned):
        if _stem(source) in pictures:
            layout.bad_rows.append(
                refusal(source, "second_caption", "Its picture has a caption from another file of its name.")
            )
        else:
            layout.bad_rows.append(refusal(source, "no_picture", "There is no picture of this name beside the text."))


def _texts(files: Files) -> dict[str, str]:
    """The files of captions by what their picture may be called, with its suffix or without."""
    found = [name for name in files.files if _is_text(name)]
    order = sorted(found, key=lambda name: SUFFIXES.index(PurePosixPath(name).suffix.lower()), reverse=True)
    return {_stem(name): name for name in order}


def _caption_of(name: str, texts: dict[str, str]) -> str | None:
    """That of `a.png` is in `a.png.txt`, or else in `a.txt`."""
    return texts.get(name) or texts.get(_stem(name))


def _annotate(layout: Layout, name: str, source: str, caption: str | None, part: str) -> None:
    if caption is None:
        layout.refuse(
            name, "invalid_caption", f"Its caption {source} is no text in UTF-8, nor in UTF-16 with a mark. Save it as UTF-8."
        )
    elif not caption.strip():
        layout.refuse(name, *EMPTY_CAPTION)
    else:
        layout.annotate(name, None, Annotation(caption=caption.rstrip(), split=part))


def _fits(files: Files) -> bool:
    """Whether at least half of the pictures have a text beside them: one stray text makes no captioned dataset."""
    texts = _texts(files)
    pictures = [name for name in files.files if not _is_text(name)]
    return bool(pictures) and 2 * sum(_caption_of(name, texts) is not None for name in pictures) >= len(pictures)


def _is_text(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


FORMAT = Format("captions", marks=((),), read=read, fits=_fits)
