"""A process that decodes untrusted images, each once: a request a line on stdin, an answer a line on stdout.

Request: {"path", "label_map"} as JSON; of a label map its colours are what is wanted. Answer: {"code", "message"}, or
{"width", "height", "format", "animated", "repaired", "plain"}: the size of the upright image, and that in which its pixels
follow, 3 bytes of RGB each, row by row. Nothing else of the file is handed on.
It runs as `python -m worker.kit.image_check MAX_PIXELS SECONDS FOLDER`, all that it can read. Memory is limited for its
whole life and time for each image; the kernel ends it where an image needs more time, and the parent starts the next one.
"""

import io
import json
import signal
import sys
import warnings
from pathlib import Path

from PIL import Image, ImageChops, UnidentifiedImageError

from difffit_core.data.pictures import to_rgb
from difffit_core.errors import DatasetError
from worker.kit.confined import confine
from worker.kit.label_colours import colour

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
BASE_MEMORY = 768 * 1024**2  # bytes of address space for the interpreter and its libraries
BYTES_PER_PIXEL = 24  # the decoded image in RGBA and five copies of it
PHOTOGRAPHS = {"JPEG", "MPO"}  # of which cameras append more, for depth and previews: nothing moves
# What a job can use of a picture: half as much again as the 1024 pixels that today's larger bases draw.
SHORTER_SIDE = 1536  # pixels
END_OF_JPEG = b"\xff\xd9"
NOISE = b"\x55" * 65536  # codes that mean something in any JPEG
# Of a JPEG that ends early so much may be missing: a row of blocks, or a twentieth.
MISSING_ROWS, MISSING_SHARE = 16, 20


def main(max_pixels: int, seconds: int, folder: Path) -> None:
    confine(BASE_MEMORY + BYTES_PER_PIXEL * max_pixels, reads=[folder])
    Image.MAX_IMAGE_PIXELS = None  # `check` has the operator's own limit
    warnings.simplefilter("ignore")  # of odd metadata in images
    for line in sys.stdin:
        request = json.loads(line)
        signal.alarm(seconds)
        answer, pixels = check(Path(request["path"]), max_pixels, request["label_map"])
        signal.alarm(0)
        sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n" + pixels)
        sys.stdout.buffer.flush()


def check(path: Path, max_pixels: int, label_map: bool) -> tuple[dict[str, object], bytes]:
    """The answer, and the pixels where there are any."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                message = f"The image has {width} x {height} pixels; at most {max_pixels} are allowed. Make it smaller."
                return {"code": "too_many_pixels", "message": message}, b""
            animated = image.format not in PHOTOGRAPHS and getattr(image, "is_animated", False)
            rgb, repaired = (colour(image), False) if label_map else _decode(image, path)
            plain = shrink(rgb)
            answer = {"width": rgb.width, "height": rgb.height, "format": image.format, "animated": animated}
            return answer | {"repaired": repaired, "plain": plain.size}, plain.tobytes()
    except DatasetError as error:
        return {"code": error.code, "message": error.message}, b""
    except UnidentifiedImageError:
        return {"code": "not_an_image", "message": f"The file is no image of a known format ({', '.join(FORMATS)})."}, b""
    except MemoryError:
        return {"code": "too_much_memory", "message": "Decoding the image needs too much memory. Make it smaller."}, b""
    except Exception as error:  # decoders raise many kinds of errors on damaged data
        return {"code": "damaged_image", "message": f"The image cannot be decoded ({error}). Export it again."}, b""


def _decode(image: Image.Image, path: Path) -> tuple[Image.Image, bool]:
    """The picture as training sees it, and whether it is a JPEG that had to be repaired."""
    try:
        return to_rgb(image), False
    except OSError:
        if image.format not in PHOTOGRAPHS:
            raise
        repaired = _without_its_end(path.read_bytes())
        if repaired is None:
            raise
        return repaired, True


def _without_its_end(data: bytes) -> Image.Image | None:
    """A JPEG whose last bytes are missing, as viewers show it: what is missing is flat. None where that is more than a little.

    The decoder does not say how far the data went. What it makes of other data in their place differs just from there on.
    """
    body = data.rstrip(b"\0").removesuffix(END_OF_JPEG).rstrip(b"\xff")
    flat, noisy = (_decode_jpeg(body + rest + END_OF_JPEG) for rest in (b"", NOISE))
    differs = ImageChops.difference(flat, noisy).getbbox()
    missing = 0 if differs is None else flat.height - differs[1]
    if missing > max(MISSING_ROWS, flat.height // MISSING_SHARE):
        return None
    with Image.open(io.BytesIO(body + END_OF_JPEG), formats=["JPEG"]) as image:
        return to_rgb(image)


def _decode_jpeg(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        return image.convert("RGB")  # not upright: blocks lie in rows as they were written


def shrink(image: Image.Image) -> Image.Image:
    """The image, made so small that its shorter side has SHORTER_SIDE pixels at most."""
    shorter = min(image.size)
    if shorter <= SHORTER_SIDE:
        return image
    width, height = (max(1, round(side * SHORTER_SIDE / shorter)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
