"""COCO-Stuff (Caesar et al., CVPR 2018): photographs, their label maps as conditions, and COCO's captions of them.

The images lie in train2017/ and val2017/, the label maps in folders of the same names, wherever these are.
"""

from pathlib import PurePosixPath

from difffit_core.errors import DatasetError
from worker.datasets.layouts.files import Files
from worker.datasets.layouts.layout import Annotation, Format, Layout, Published

SPLITS = {"train2017": "train", "val2017": "test"}  # the authors evaluate on what they call validation
CAPTIONS = "captions_{}.json"


def read(files: Files, layout: Layout) -> None:
    images, maps = _by_part(files, ".jpg"), _by_part(files, ".png")
    if not images or not maps:
        raise DatasetError(
            f"There are no images (.jpg) with label maps (.png) in folders called {' and '.join(SPLITS)}.",
            code="missing_file",
            param="file",
        )
    for part, split in SPLITS.items():
        captions = _captions(files, layout, part) if any(key[0] == part for key in images) else {}
        for (folder, stem), name in images.items():
            if folder == part:
                caption = captions.get(stem.lstrip("0"), "")
                _pair(layout, name, maps.get((part, stem)), caption, split)
    for name in maps.values():
        if name not in layout.conditions:
            layout.refuse(name, "no_picture", "There is no image of this name in the part of this label map.")


def _by_part(files: Files, suffix: str) -> dict[tuple[str, str], str]:
    """Files by (part, name without suffix)."""
    paths = ((PurePosixPath(name), name) for name in files.files)
    return {(p.parent.name, p.stem): name for p, name in paths if p.parent.name in SPLITS and p.suffix.lower() == suffix}


def _captions(files: Files, layout: Layout, part: str) -> dict[str, str]:
    """Of each image the first that people wrote, by the image's number, which its file name is."""
    source = files.find(CAPTIONS.format(part))
    if source is None:
        layout.warn("missing_list", f"Without {CAPTIONS.format(part)} the images of {part} have no captions.")
        return {}
    layout.lists.add(source)
    first: dict[str, tuple[int, str]] = {}
    for number, row in files.elements(source, "annotations"):
        match row:
            case {"image_id": int(image), "id": int(place), "caption": str(caption)} if caption.strip():
                first[str(image)] = min(first.get(str(image), (place, caption)), (place, caption))
            case _:
                layout.refuse_row(source, number, "The annotation has no `image_id`, no `id` or no `caption`.")
    return {image: caption.rstrip() for image, (_, caption) in first.items()}


def _pair(layout: Layout, name: str, label_map: str | None, caption: str, split: str) -> None:
    if label_map is None:
        layout.refuse(name, "missing_condition", "There is no label map of this image's name in the same part.")
        return
    layout.conditions.add(label_map)
    layout.label_maps.add(label_map)
    layout.annotate(name, None, Annotation(caption=caption, condition=label_map, split=split))


def _fits(files: Files) -> bool:
    return bool(_by_part(files, ".jpg").keys() & _by_part(files, ".png").keys())


FORMAT = Format(
    "coco-stuff",
    marks=((),),
    read=read,
    published=Published(classes=0, images=123_287, splits={"train": 118_287, "test": 5_000}),
    fits=_fits,
)
