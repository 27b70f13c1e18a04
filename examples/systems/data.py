"""What the systems learn from: emoji with their names, their edges, and one cat's faces."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageFilter, ImageOps

from difffit_core.data.dataset import index_class_folders, write_index
from difffit_core.spec.job import DatasetSummary
from examples.emoji_dit.sources import (
    EXAMPLE_CLASSES,
    Emoji,
    class_name,
    emoji_list,
    fluent_paths,
    noto_path,
    on_white,
    twemoji_paths,
)

SUBJECT = ("1f63a", "1f638", "1f639", "1f63b", "1f63c")  # one cat with five faces
HOLD_OUT_EVERY = 10  # one in ten of the drawings is held out

Drawing = tuple[Emoji, Path]


def animals_and_foods(modules: Path) -> list[Emoji]:
    """The emoji of the demo's classes that Fluent draws as Noto does; 170."""
    fluent = fluent_paths(modules)
    return [e for e in emoji_list(modules) if class_name(e) in EXAMPLE_CLASSES and e.key in fluent]


def is_face_or_fruit(emoji: Emoji) -> bool:
    """Whether Noto and Fluent both draw it from the front, so that what differs is the way of drawing."""
    return emoji.name.endswith("FACE") or class_name(emoji) == "food-fruit"


def caption(emoji: Emoji) -> str:
    """Worded as DreamBooth words its prompts: `a photo of a fox face`."""
    name = emoji.name.lower()
    return f"a photo of a{'n' if name[0] in 'aeiou' else ''} {name}"


def caption_words(modules: Path) -> set[str]:
    """Every word that a caption can have."""
    return {word for emoji in animals_and_foods(modules) for word in caption(emoji).split()} | {"a", "an"}


def write_captioned(drawings: Sequence[Drawing], folder: Path, hold_out: bool = False) -> DatasetSummary:
    """Drawings with their names as captions."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"file": save(path, folder), "caption": caption(emoji), "split": split_of(hold_out and is_held_out(number))}
        for number, (emoji, path) in enumerate(drawings)
    ]
    return write_index(folder, rows)


def is_held_out(number: int) -> bool:
    return number % HOLD_OUT_EVERY == 0


def split_of(held_out: bool) -> str:
    return "test" if held_out else "train"


def noto(modules: Path) -> list[Drawing]:
    return [(emoji, noto_path(modules, emoji)) for emoji in animals_and_foods(modules)]


def fluent(modules: Path) -> list[Drawing]:
    paths = fluent_paths(modules)
    return [(emoji, paths[emoji.key]) for emoji in animals_and_foods(modules)]


def twemoji(modules: Path) -> list[Drawing]:
    paths = twemoji_paths()
    return [(emoji, paths[emoji.key]) for emoji in animals_and_foods(modules)]


def write_with_edges(modules: Path, folder: Path) -> DatasetSummary:
    """Noto's and Twemoji's drawings with their names and edges; one in ten of Twemoji's is held out."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for art, drawings in (("noto", noto(modules)), ("twemoji", twemoji(modules))):
        for number, (emoji, path) in enumerate(drawings):
            file = save(path, folder, f"{art}-")
            edges(Image.open(folder / file)).save(folder / f"edges-{file}")
            held_out = art == "twemoji" and is_held_out(number)
            row = {"file": file, "condition": f"edges-{file}", "caption": caption(emoji)}
            rows.append(row | {"split": split_of(held_out)})
    return write_index(folder, rows)


def with_held_out_edges(modules: Path) -> list[Drawing]:
    return [drawing for number, drawing in enumerate(twemoji(modules)) if is_held_out(number)]


def edges(picture: Image.Image) -> Image.Image:
    """White outlines on black."""
    found = picture.convert("L").filter(ImageFilter.GaussianBlur(0.7)).filter(ImageFilter.FIND_EDGES)
    inner = ImageOps.crop(found, 1)  # the filter copies its border
    return ImageOps.expand(ImageOps.autocontrast(inner, cutoff=1), 1).convert("RGB")


def write_subject(modules: Path, folder: Path) -> DatasetSummary:
    """Five pictures of one cat, as Fluent draws it."""
    folder.mkdir(parents=True, exist_ok=True)
    return write_index(folder, [{"file": save(path, folder)} for path in subject_paths(modules)])


def subject_paths(modules: Path) -> list[Path]:
    paths = fluent_paths(modules)
    return [paths[key] for key in SUBJECT]


def save(path: Path, folder: Path, prefix: str = "") -> str:
    """Write the picture on white as PNG; the name of its file."""
    file = f"{prefix}{path.stem}.png"
    on_white(path).save(folder / file)
    return file


def write_large_classes(modules: Path, folder: Path, size: int) -> DatasetSummary:
    """Noto's drawings, which emoji-dit knows with their classes, scaled up to `size` pixels: nothing is new but the size."""
    for emoji, path in noto(modules):
        target = folder / class_name(emoji) / f"{path.stem}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        on_white(path, size).save(target)
    return index_class_folders(folder)
