"""Small pictures and archives of them, for tests."""

import io
import struct
import zipfile
from pathlib import Path

from PIL import Image

from tests.odd_pictures import png


def picture(color: str = "red", size: tuple[int, int] = (64, 64), kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, kind)
    return buffer.getvalue()


def huge_picture() -> bytes:
    """A PNG whose header says 30,000 x 30,000, with data that would go on for long."""
    return png(struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0), bytes(10**6))


def zip_of(target: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(target, "w") as packed:
        for name, data in files.items():
            packed.writestr(name, data)
    return target


def two_classes(count: int = 4) -> dict[str, bytes]:
    """`count` images each of red and blue pictures, all different."""
    files = {f"red/{i}.png": picture(f"rgb(255, {i}, 0)") for i in range(count)}
    return files | {f"blue/{i}.png": picture(f"rgb(0, {i}, 255)") for i in range(count)}
