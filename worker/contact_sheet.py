"""The preview of a dataset: one row a class, its name and a few of its pictures; or rows of pictures without a class."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from worker.image_check import THUMBNAIL

CLASSES = 8
PICTURES = 8  # of each class
GAP = 4  # pixels
NAME_WIDTH = 128  # pixels
LONGEST_NAME = 20  # characters that fit into NAME_WIDTH


def contact_sheet(rows: Sequence[tuple[str, list[Path]]], target: Path) -> None:
    """Draw rows of a name and thumbnails of THUMBNAIL pixels into a PNG."""
    columns = max(len(thumbnails) for _, thumbnails in rows)
    cell = THUMBNAIL + GAP
    sheet = Image.new("RGB", (NAME_WIDTH + columns * cell + GAP, len(rows) * cell + GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for row, (name, thumbnails) in enumerate(rows):
        top = GAP + row * cell
        shown = name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
        draw.text((GAP, top + THUMBNAIL // 2), shown, fill="black", font=font, anchor="lm")
        for column, thumbnail in enumerate(thumbnails):
            with Image.open(thumbnail) as picture:
                sheet.paste(picture, (NAME_WIDTH + column * cell, top))
    sheet.save(target, "PNG")
