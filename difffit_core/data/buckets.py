"""Sizes of about one area in the usual ratios: a picture goes into the nearest, so that little of it is cut off. Torch-free."""

import math
from collections.abc import Iterable

Size = tuple[int, int]  # width and height in pixels

RATIOS = (1, 5 / 4, 4 / 3, 3 / 2, 16 / 9, 2, 12 / 5, 3, 4)  # of the longer side to the shorter one
LEAST_AREA, MOST_AREA = 0.75, 4 / 3  # of the square's; coarse multiples of a small square miss it by more


def bucket_sizes(resolution: int, multiple: int) -> list[Size]:
    """The square of `resolution`, and wide and tall sizes of about its area whose sides are multiples of `multiple`."""
    sizes = {(resolution, resolution)}
    for ratio in RATIOS:
        width = max(1, round(resolution * math.sqrt(ratio) / multiple)) * multiple
        height = max(1, round(resolution**2 / width / multiple)) * multiple
        if LEAST_AREA <= width * height / resolution**2 <= MOST_AREA:
            sizes |= {(width, height), (height, width)}
    return sorted(sizes)


def nearest_size(picture: Size, sizes: Iterable[Size]) -> Size:
    """That of the sizes whose ratio of width to height is nearest to the picture's."""
    return min(sizes, key=lambda size: (abs(_log_ratio(size) - _log_ratio(picture)), size))


def size_name(size: Size) -> str:
    """As people write it: 640x384."""
    return f"{size[0]}x{size[1]}"


def size_of(name: str) -> Size:
    """The size of that name; raises ValueError."""
    width, height = map(int, name.split("x"))
    return width, height


def _log_ratio(size: Size) -> float:
    return math.log(size[0] / size[1])
