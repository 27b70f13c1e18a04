"""Pictures in the modes and formats that users have, all of two halves: nearly black on the left, grey on the right."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

SIZE = (8, 4)
DARK, GREY = 16, 144  # of 255; both are whole bytes of 16 bits too
ROTATED = 6  # EXIF's number for a picture to be turned clockwise


def halves() -> np.ndarray:
    """`[4, 8]` bytes."""
    pixels = np.full(SIZE[::-1], DARK, np.uint8)
    pixels[:, SIZE[0] // 2 :] = GREY
    return pixels


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_of_16_bits(colour_type: int, channels: list[int], transparent: bytes = b"") -> bytes:
    """A PNG with 16 bits a channel, of which Pillow writes greys alone; a channel is a constant, or the halves if it is -1."""
    values = halves().astype(">u2") * 257
    planes = np.stack([values if c < 0 else np.full_like(values, c) for c in channels], axis=-1)
    rows = b"".join(b"\0" + row.tobytes() for row in planes)
    header = struct.pack(">IIBBBBB", *SIZE, 16, colour_type, 0, 0, 0)
    return png(header, rows, tRNS=transparent) if transparent else png(header, rows)


def png(header: bytes, rows: bytes, **others: bytes) -> bytes:
    """A PNG file of a header, of rows of pixels, and of `others`: chunks between the two, by their kinds."""
    chunks = {"IHDR": header, **others, "IDAT": zlib.compress(rows), "IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind.encode(), data) for kind, data in chunks.items())


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def grey() -> Image.Image:
    return Image.fromarray(halves())


def transparent_palette() -> bytes:
    """Whose dark half is wholly transparent."""
    return saved(grey().convert("P"), transparency=DARK)


def half_transparent() -> bytes:
    """Black with an alpha that leaves GREY of the white below, and DARK."""
    return saved(Image.merge("LA", (Image.new("L", SIZE, 0), Image.fromarray(255 - halves()))))


def rotated() -> bytes:
    """Stored lying on its side, with an EXIF entry that says so."""
    exif = Image.Exif()
    exif[0x0112] = ROTATED
    return saved(grey().transpose(Image.Transpose.ROTATE_90), exif=exif)


def animated(kind: str) -> bytes:
    frames = [grey(), Image.new("L", SIZE, 255)]
    options = {"lossless": True} if kind == "WEBP" else {}
    return saved(frames[0].convert("RGB"), kind, save_all=True, append_images=[frames[1].convert("RGB")], **options)


# Name → (bytes, the levels of the left and the right half).
ODD: dict[str, tuple[Callable[[], bytes], tuple[int, int]]] = {
    "rgb": (lambda: saved(grey().convert("RGB")), (DARK, GREY)),
    "grey": (lambda: saved(grey()), (DARK, GREY)),
    "cmyk": (lambda: saved(grey().convert("RGB").convert("CMYK"), "TIFF"), (DARK, GREY)),
    "cmyk jpeg": (lambda: saved(grey().convert("RGB").convert("CMYK"), "JPEG", quality=100), (DARK, GREY)),
    "16-bit grey": (lambda: png_of_16_bits(0, [-1]), (DARK, GREY)),
    "16-bit grey tiff": (lambda: saved(Image.fromarray(halves().astype(np.uint16) * 257), "TIFF"), (DARK, GREY)),
    "16-bit grey with transparency": (lambda: png_of_16_bits(0, [-1], struct.pack(">H", DARK * 257)), (255, GREY)),
    "16-bit rgb": (lambda: png_of_16_bits(2, [-1, -1, -1]), (DARK, GREY)),
    "16-bit rgba": (lambda: png_of_16_bits(6, [-1, -1, -1, 65535]), (DARK, GREY)),
    "16-bit grey with alpha": (lambda: png_of_16_bits(4, [-1, 0]), (255, 255)),
    "palette": (lambda: saved(grey().convert("P")), (DARK, GREY)),
    "palette with transparency": (transparent_palette, (255, GREY)),
    "alpha": (half_transparent, (DARK, GREY)),
    "1 bit": (lambda: saved(Image.fromarray(halves() > 100)), (0, 255)),
    "rotated": (rotated, (DARK, GREY)),
    "animated gif": (lambda: animated("GIF"), (DARK, GREY)),
    "animated webp": (lambda: animated("WEBP"), (DARK, GREY)),
    "animated png": (lambda: animated("PNG"), (DARK, GREY)),
    "tiff of pages": (lambda: animated("TIFF"), (DARK, GREY)),
    "bmp": (lambda: saved(grey(), "BMP"), (DARK, GREY)),
}
