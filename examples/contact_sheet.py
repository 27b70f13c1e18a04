"""Draw the demo's contact sheet: real images, the base's samples and the adapted model's, one row a class."""

from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

CELL, GAP, GROUP_GAP, MARGIN = 96, 8, 36, 32  # pixels
LABEL_WIDTH, TITLE_HEIGHT, HEADING_HEIGHT = 132, 76, 34
INK, QUIET, PAPER, CARD = "#1d2433", "#6b7385", "#f4f5f8", "#ffffff"


@dataclass(frozen=True)
class Group:
    """Some columns with one heading: pictures by class, the same number in every row."""

    heading: str
    pictures: dict[str, list[Image.Image]]

    @property
    def columns(self) -> int:
        return max(len(row) for row in self.pictures.values())

    @property
    def width(self) -> int:
        return self.columns * (CELL + GAP) - GAP


def contact_sheet(title: str, subtitle: str, classes: list[str], groups: list[Group]) -> Image.Image:
    """The whole sheet; each row is a class and carries its name."""
    width = 2 * MARGIN + LABEL_WIDTH + sum(group.width for group in groups) + GROUP_GAP * (len(groups) - 1)
    height = 2 * MARGIN + TITLE_HEIGHT + HEADING_HEIGHT + len(classes) * (CELL + GAP) - GAP
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN - 4), title, fill=INK, font=ImageFont.load_default(24))
    draw.text((MARGIN, MARGIN + 32), subtitle, fill=QUIET, font=ImageFont.load_default(15))
    top = MARGIN + TITLE_HEIGHT + HEADING_HEIGHT
    for row, name in enumerate(classes):
        middle = top + row * (CELL + GAP) + CELL // 2
        draw.text((MARGIN, middle), name, fill=INK, font=ImageFont.load_default(15), anchor="lm")
    left = MARGIN + LABEL_WIDTH
    for group in groups:
        draw.text((left, MARGIN + TITLE_HEIGHT), group.heading, fill=INK, font=ImageFont.load_default(17))
        for row, name in enumerate(classes):
            for column, picture in enumerate(group.pictures[name]):
                place(sheet, picture, left + column * (CELL + GAP), top + row * (CELL + GAP))
        left += group.width + GROUP_GAP
    return sheet


def place(sheet: Image.Image, picture: Image.Image, left: int, top: int) -> None:
    """Paste a picture, scaled to a cell, on a white card with round corners."""
    mask = Image.new("L", (CELL, CELL), 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, CELL - 1, CELL - 1), radius=10, fill=255)
    scaled = picture.convert("RGB").resize((CELL, CELL), Image.Resampling.BICUBIC)
    sheet.paste(Image.new("RGB", (CELL, CELL), CARD), (left, top), mask)
    sheet.paste(scaled, (left, top), mask)
