"""How large the pictures may be that a model is asked for: near to what it was trained on, in whole tokens. Torch-free."""

from difffit_core.data.buckets import MOST_AREA, Size, size_name
from difffit_core.errors import SpecError
from difffit_core.spec.catalog import BaseModelEntry

FACTOR = 4  # of a side from the trained square's, in both directions: past that a model repeats itself; and of the area


def check_size(size: Size, resolution: int, base: BaseModelEntry) -> None:
    """Raise SpecError (`wrong_size`) that names `width` or `height` where a model cannot make pictures of this size.

    It was trained on pictures of `resolution` x `resolution`, or of about that area.
    """
    square = resolution, resolution
    if size == square:
        return
    if base.family == "dit":
        raise SpecError(
            f"{base.id}, a DiT, knows positions in pictures as it was trained on only: it makes {size_name(square)}. "
            "Leave width and height out.",
            code="wrong_size",
            param="width" if size[0] != resolution else "height",
        )
    multiple = base.pixels_per_token()
    least, most = max(multiple, resolution // FACTOR), resolution * FACTOR
    for name, side in zip(("width", "height"), size, strict=True):
        if side % multiple or not least <= side <= most:
            raise SpecError(
                f"{base.id} makes pictures whose sides are multiples of {multiple} from {least} to {most} pixels, and the "
                f"{name} {side} is none.",
                code="wrong_size",
                param=name,
            )
    own = base.image_size()
    assert own is not None  # only language models have none
    if size[0] * size[1] > max(FACTOR * own**2, MOST_AREA * resolution**2):
        raise SpecError(
            f"{size_name(size)} has more than {FACTOR} times the area of what {base.id} makes by itself, "
            f"{size_name((own, own))}, and more than this model was trained on. Ask for less.",
            code="wrong_size",
            param="width" if size[0] >= size[1] else "height",
        )
