"""The preview of a dataset: one row a class, its name and a few of its pictures; or rows of pictures without a class."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

THUMBNAIL = 64  # pixels
CLASSES = 8
PICTURES = 8  # of each class
GAP = 4  # pixels
NAME_WIDTH = 128  # pixels
LONGEST_NAME = 20  # characters that fit into NAME_WIDTH


def contact_sheet(rows: Sequence[tuple[str, list[Path]]], target: Path) -> None:
    """Draw rows of a name and of pictures, PNGs of ours, as thumbnails of THUMBNAIL pixels into a PNG."""
    columns = max(len(pictures) for _, pictures in rows)
    cell = THUMBNAIL + GAP
    sheet = Image.new("RGB", (NAME_WIDTH + columns * cell + GAP, len(rows) * cell + GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for row, (name, pictures) in enumerate(rows):
        top = GAP + row * cell
        shown = name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
        draw.text((GAP, top + THUMBNAIL // 2), shown, fill="black", font=font, anchor="lm")
        for column, path in enumerate(pictures):
            with Image.open(path, formats=["PNG"]) as picture:
                picture.thumbnail((THUMBNAIL, THUMBNAIL))
                left = NAME_WIDTH + column * cell + (THUMBNAIL - picture.width) // 2
                sheet.paste(picture, (left, top + (THUMBNAIL - picture.height) // 2))
    sheet.save(target, "PNG")
