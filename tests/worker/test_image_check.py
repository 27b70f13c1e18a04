"""The check decodes pictures as training does, and says what it made of odd ones."""

from pathlib import Path

import pytest
from PIL import Image

from tests.odd_pictures import ODD, SIZE, saved
from tests.worker.checking import Checker, codes, warnings
from worker.image_check import THUMBNAIL
from worker.image_pool import CheckedImage, ImagePool, Request


@pytest.mark.parametrize("name", ODD)
def test_odd_pictures_are_kept_upright_and_shown_as_training_sees_them(tmp_path: Path, pool: ImagePool, name: str) -> None:
    make, levels = ODD[name]
    (tmp_path / "picture").write_bytes(make())
    (answer,) = pool.check([Request(tmp_path / "picture", thumbnail=tmp_path / "thumbnail.png")])
    assert isinstance(answer, CheckedImage)
    assert (answer.width, answer.height) == SIZE
    assert answer.animated == (name.startswith(("animated", "tiff of")))
    with Image.open(tmp_path / "thumbnail.png") as thumbnail:
        middle = THUMBNAIL // 2
        halves = [thumbnail.getpixel((middle + x, middle)) for x in (-3, 2)]
    assert halves == [pytest.approx((level,) * 3, abs=1) for level in levels]


def test_the_report_names_animated_pictures_and_gives_upright_sizes(check: Checker) -> None:
    names = ("animated gif", "rotated", "tiff of pages")
    checked = check({f"a/{name}": ODD[name][0]() for name in names} | {"a/deep.tiff": saved(Image.new("F", SIZE), "TIFF")})
    assert "'a/animated gif', 'a/tiff of pages'" in warnings(checked)["animated"]
    assert checked.report["sizes"]["smallest"] == checked.report["sizes"]["largest"] == SIZE
    assert codes(checked) == {"a/deep.tiff": "unknown_depth"}


def test_a_photograph_with_a_second_image_is_not_animated(tmp_path: Path, pool: ImagePool) -> None:
    frames = [Image.new("RGB", SIZE, "red"), Image.new("RGB", SIZE, "blue")]
    (tmp_path / "phone.jpg").write_bytes(saved(frames[0], "MPO", save_all=True, append_images=frames[1:]))
    (answer,) = pool.check([Request(tmp_path / "phone.jpg")])
    assert isinstance(answer, CheckedImage)
    assert (answer.format, answer.animated) == ("MPO", False)
