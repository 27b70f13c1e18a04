"""The colours of a label map, whose grey values are numbers of classes: what a ControlNet sees instead of them."""

from PIL import Image

from difffit_core.errors import DatasetError

CLASSES = 182  # of COCO-Stuff, from 0: things, then stuff
UNLABELLED = 255  # is black


def colour_of(number: int) -> tuple[int, int, int]:
    """The bits of the number and one, dealt out to red, green and blue in turn, the lowest first and into the highest places.

    Pascal VOC's colours are made like this, from the number itself, which makes the first class black. 255 is black here.
    """
    bits = 0 if number == UNLABELLED else number + 1
    red, green, blue = (sum((bits >> 3 * place + channel & 1) << 7 - place for place in range(3)) for channel in range(3))
    return red, green, blue


PALETTE = [value for number in range(256) for value in colour_of(number)]


def colour(label_map: Image.Image) -> Image.Image:
    """An RGB picture of a label map. Raises DatasetError (`not_a_label_map`)."""
    if label_map.mode not in {"L", "P"}:
        raise DatasetError(
            f"A label map is a grey picture of 8 bits; this one is of the kind {label_map.mode}.", code="not_a_label_map"
        )
    unknown = [number for number, pixels in enumerate(label_map.histogram()) if pixels and CLASSES <= number < UNLABELLED]
    if unknown:
        raise DatasetError(
            f"The label map has pixels of class {unknown[0]}; there are 0 to {CLASSES - 1}, and {UNLABELLED} for none.",
            code="not_a_label_map",
        )
    numbers = Image.frombytes("L", label_map.size, label_map.tobytes())
    numbers.putpalette(PALETTE)
    return numbers.convert("RGB")
