"""Pictures as users have them, turned into what models take: upright, 8 bits a channel, RGB, transparency on white."""

from PIL import ExifTags, Image, ImageOps

from difffit_core.errors import DatasetError

SIDEWAYS = {5, 6, 7, 8}  # the EXIF orientations that exchange width and height


def to_rgb(image: Image.Image) -> Image.Image:
    """The first frame of an opened picture, turned as its EXIF data say; itself, loaded, where nothing is to be changed.

    Raises DatasetError (`unknown_depth`).
    """
    if image.mode in {"I", "F"}:
        raise DatasetError(
            "The picture has 32 bits a channel, and nothing says which value is white. Save it with 8 or 16 bits.",
            code="unknown_depth",
            param="file",
        )
    image.load()
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    upright = ImageOps.exif_transpose(image) if turned else image
    if upright.mode.startswith("I;16"):
        upright = _upper_bytes(upright)
    if upright.has_transparency_data:
        rgba = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return upright if upright.mode == "RGB" else upright.convert("RGB")


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of an opened picture as `to_rgb` turns it, read from its header; Pillow turns TIFFs, and their size."""
    width, height = image.size
    turned = image.format != "TIFF" and image.getexif().get(ExifTags.Base.Orientation, 1) in SIDEWAYS
    return (height, width) if turned else (width, height)


def _upper_bytes(image: Image.Image) -> Image.Image:
    """A grey picture of 16 bits with 8, as Pillow reads colours of 16; its own conversion of such greys clips them to white."""
    first = 0 if image.mode == "I;16B" else 1  # the other modes are little-endian
    grey = Image.frombytes("L", image.size, image.tobytes()[first::2])
    if "transparency" in image.info:  # the grey that stands for it
        grey.info["transparency"] = image.info["transparency"] >> 8
    return grey
