"""A process that decodes untrusted images: one JSON request a line on stdin, one JSON answer a line on stdout.

Request: {"path", "thumbnail": path or null, "coloured": path or null}; the last is where a label map's colours are written.
Answer: {"width", "height", "format", "animated"} with the size of the upright image, or {"code", "message"}.
It runs as `python -m worker.image_check MAX_PIXELS SECONDS`. Memory is limited for its whole life and time for each image; the
kernel ends it where an image needs more time, and the parent starts the next one.
"""

import errno
import json
import resource
import signal
import sys
import warnings
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from difffit_core.errors import DatasetError
from difffit_core.pictures import to_rgb
from worker.label_colours import colour

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
THUMBNAIL = 64  # pixels
DISK_FULL = "disk_full"  # of what is written, and no fault of the image
BASE_MEMORY = 768 * 1024**2  # bytes of address space for the interpreter and its libraries
BYTES_PER_PIXEL = 24  # the decoded image in RGBA and five copies of it
PHOTOGRAPHS = {"JPEG", "MPO"}  # of which cameras append more, for depth and previews: nothing moves


def main(max_pixels: int, seconds: int) -> None:
    memory = BASE_MEMORY + BYTES_PER_PIXEL * max_pixels
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    Image.MAX_IMAGE_PIXELS = None  # `check` has the operator's own limit
    warnings.simplefilter("ignore")  # of odd metadata in images
    for line in sys.stdin:
        request = json.loads(line)
        signal.alarm(seconds)
        answer = check(Path(request["path"]), max_pixels, request["thumbnail"], request["coloured"])
        signal.alarm(0)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def check(path: Path, max_pixels: int, thumbnail: str | None, coloured: str | None) -> dict[str, object]:
    """Decode the whole image as training will; its size and format, or why it cannot be used."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                message = f"The image has {width} x {height} pixels; at most {max_pixels} are allowed. Make it smaller."
                return {"code": "too_many_pixels", "message": message}
            rgb = to_rgb(image) if coloured is None else colour(image)
            if coloured is not None:
                rgb.save(coloured, "PNG")
            if thumbnail is not None:
                shrink(rgb).save(thumbnail, "PNG")
            animated = image.format not in PHOTOGRAPHS and getattr(image, "is_animated", False)
            return {"width": rgb.width, "height": rgb.height, "format": image.format, "animated": animated}
    except DatasetError as error:
        return {"code": error.code, "message": error.message}
    except UnidentifiedImageError:
        return {"code": "not_an_image", "message": f"The file is no image of a known format ({', '.join(FORMATS)})."}
    except MemoryError:
        return {"code": "too_much_memory", "message": "Decoding the image needs too much memory. Make it smaller."}
    except Exception as error:  # decoders raise many kinds of errors on damaged data
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            return {"code": DISK_FULL, "message": str(error)}
        return {"code": "damaged_image", "message": f"The image cannot be decoded ({error}). Export it again."}


def shrink(image: Image.Image) -> Image.Image:
    """The image on a white square of THUMBNAIL pixels."""
    small = image.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    square = Image.new("RGB", (THUMBNAIL, THUMBNAIL), "white")
    square.paste(small, ((THUMBNAIL - small.width) // 2, (THUMBNAIL - small.height) // 2))
    return square


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
