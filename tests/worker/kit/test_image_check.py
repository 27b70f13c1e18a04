"""The check decodes pictures as training does, and says what it made of odd ones."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from difffit_core.data.pictures import SIDEWAYS, upright_size
from tests.odd_pictures import ODD, SIZE, saved
from tests.worker.checking import Checker, codes, warnings
from worker.kit.image_check import SHORTER_SIDE
from worker.kit.image_pool import CheckedImage, ImagePool, RefusedImage, Request


@pytest.mark.parametrize("name", ODD)
def test_odd_pictures_are_kept_upright_and_shown_as_training_sees_them(tmp_path: Path, pool: ImagePool, name: str) -> None:
    make, levels = ODD[name]
    (tmp_path / "picture").write_bytes(make())
    (answer,) = pool.check([Request(tmp_path / "picture", tmp_path / "plain.png")])
    assert isinstance(answer, CheckedImage)
    assert (answer.width, answer.height) == answer.plain == SIZE
    assert answer.animated == (name.startswith(("animated", "tiff of")))
    with Image.open(tmp_path / "plain.png") as plain:
        assert (plain.format, plain.mode, plain.size, plain.info) == ("PNG", "RGB", SIZE, {})
        halves = [plain.getpixel((x, SIZE[1] // 2)) for x in (SIZE[0] // 2 - 1, SIZE[0] // 2)]
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
    (answer,) = pool.check([Request(tmp_path / "phone.jpg", tmp_path / "plain.png")])
    assert isinstance(answer, CheckedImage)
    assert (answer.format, answer.animated) == ("MPO", False)


def photograph(size: tuple[int, int] = (160, 120), **options: object) -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (12, 16, 3)).astype(np.uint8)
    return saved(Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC), "JPEG", **options)


SHORTER: dict[str, Callable[[bytes], bytes]] = {
    "without its end mark": lambda data: data[:-2],
    "some bytes short": lambda data: data[:-10],
    "fill bytes before the end mark": lambda data: data[:-2] + b"\xff" * 20 + data[-2:],
    "fill bytes and no end mark": lambda data: data[:-2] + b"\xff" * 20,
}


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("name", SHORTER)
def test_jpegs_that_every_viewer_shows_are_kept(tmp_path: Path, pool: ImagePool, name: str, progressive: bool) -> None:
    whole = photograph(progressive=progressive)
    (tmp_path / "whole.jpg").write_bytes(whole)
    (tmp_path / "short.jpg").write_bytes(SHORTER[name](whole))
    paths = [tmp_path / "whole.png", tmp_path / "short.png"]
    whole_answer, answer = pool.check([Request(path.with_suffix(".jpg"), path) for path in paths])
    assert isinstance(answer, CheckedImage)
    assert isinstance(whole_answer, CheckedImage)
    assert (whole_answer.repaired, answer.repaired) == (False, "fill bytes before" not in name)
    shown, found = (np.asarray(Image.open(path)).astype(int) for path in paths)
    assert np.abs(shown - found)[:100].max() <= 32  # the last rows may lack what the last bytes say


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_of_which_much_is_missing_is_damaged(tmp_path: Path, pool: ImagePool, progressive: bool) -> None:
    whole = photograph(progressive=progressive)
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    (answer,) = pool.check([Request(tmp_path / "half.jpg", tmp_path / "plain.png")])
    assert isinstance(answer, RefusedImage)
    assert answer.code == "damaged_image"


def test_the_report_names_repaired_pictures(check: Checker) -> None:
    checked = check({"a/whole.jpg": photograph((64, 64)), "a/short.jpg": photograph()[:-4]})
    assert "'a/short.jpg'" in warnings(checked)["repaired"]
    assert "whole" not in warnings(checked)["repaired"]
    assert checked.report["kept"] == 2


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiffs_are_turned_once(tmp_path: Path, pool: ImagePool, orientation: int, compression: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    lying = Image.new("RGB", (30, 20))
    (tmp_path / "a.tif").write_bytes(saved(lying, "TIFF", exif=exif, compression=compression))
    (answer,) = pool.check([Request(tmp_path / "a.tif", tmp_path / "plain.png")])
    assert isinstance(answer, CheckedImage)
    assert (answer.width, answer.height) == answer.plain == ((20, 30) if orientation in SIDEWAYS else (30, 20))
    with Image.open(tmp_path / "a.tif") as header:
        assert upright_size(header) == answer.plain


def test_large_pictures_are_kept_as_large_as_jobs_can_use(tmp_path: Path, pool: ImagePool) -> None:
    (tmp_path / "large.jpg").write_bytes(saved(Image.new("RGB", (4000, 3000)), "JPEG"))
    (answer,) = pool.check([Request(tmp_path / "large.jpg", tmp_path / "plain.png")])
    assert isinstance(answer, CheckedImage)
    assert (answer.width, answer.height, answer.plain) == (4000, 3000, (2048, SHORTER_SIDE))
    with Image.open(tmp_path / "plain.png") as plain:
        assert plain.size == answer.plain


def test_an_answer_that_no_decoder_gives_is_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever takes a decoder over can say what they like, and be believed pixels alone."""
    taken_over = tmp_path / "decoder"
    monkeypatch.setattr("sys.executable", str(taken_over))
    for said in ("nonsense", '{"plain": [100000, 100000]}', '{"plain": [2, 2]}', '{"plain": [1000, 10]}', "[]", '{"code": 1}'):
        taken_over.write_text(f"#!/bin/sh\nread request\necho '{said}'\n")
        taken_over.chmod(0o700)
        with ImagePool(tmp_path, max_pixels=10_000) as pool:
            (answer,) = pool.check([Request(tmp_path / "any.png", tmp_path / "plain.png")])
        assert isinstance(answer, RefusedImage)
        assert answer.code == "damaged_image"
