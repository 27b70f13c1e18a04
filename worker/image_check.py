"""A process that decodes untrusted images: one JSON request a line on stdin, one JSON answer a line on stdout.

Request: {"path", "thumbnail": path or null}. Answer: {"width", "height", "format"} or {"code", "message"}.
It runs as `python -m worker.image_check MAX_PIXELS SECONDS`. Memory is limited for its whole life and time for each image; the
kernel ends it where an image needs more time, and the parent starts the next one.
"""

import json
import resource
import signal
import sys
import warnings
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
THUMBNAIL = 64  # pixels
BASE_MEMORY = 768 * 1024**2  # bytes of address space for the interpreter and its libraries
BYTES_PER_PIXEL = 16  # the decoded image in RGBA and three copies of it


def main(max_pixels: int, seconds: int) -> None:
    memory = BASE_MEMORY + BYTES_PER_PIXEL * max_pixels
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    Image.MAX_IMAGE_PIXELS = None  # `check` has the operator's own limit
    warnings.simplefilter("ignore")  # of odd metadata in images
    for line in sys.stdin:
        request = json.loads(line)
        signal.alarm(seconds)
        answer = check(Path(request["path"]), max_pixels, request["thumbnail"])
        signal.alarm(0)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def check(path: Path, max_pixels: int, thumbnail: str | None) -> dict[str, object]:
    """Decode the whole image; its size and format, or why it cannot be used."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                message = f"The image has {width} x {height} pixels; at most {max_pixels} are allowed. Make it smaller."
                return {"code": "too_many_pixels", "message": message}
            image.load()
            if thumbnail is not None:
                shrink(image).save(thumbnail, "PNG")
            return {"width": width, "height": height, "format": image.format}
    except UnidentifiedImageError:
        return {"code": "not_an_image", "message": f"The file is no image of a known format ({', '.join(FORMATS)})."}
    except MemoryError:
        return {"code": "too_much_memory", "message": "Decoding the image needs too much memory. Make it smaller."}
    except Exception as error:  # decoders raise many kinds of errors on damaged data
        return {"code": "damaged_image", "message": f"The image cannot be decoded ({error}). Export it again."}


def shrink(image: Image.Image) -> Image.Image:
    """The image upright on a white square of THUMBNAIL pixels."""
    small = ImageOps.exif_transpose(image).convert("RGBA")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    square = Image.new("RGBA", (THUMBNAIL, THUMBNAIL), "white")
    square.alpha_composite(small, ((THUMBNAIL - small.width) // 2, (THUMBNAIL - small.height) // 2))
    return square.convert("RGB")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
