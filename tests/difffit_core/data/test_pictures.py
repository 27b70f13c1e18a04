"""Whatever mode and format users' pictures have, training sees the same picture."""

import io
from pathlib import Path

import pytest
from PIL import Image

from difffit_core.data.dataset import load_picture
from difffit_core.data.pictures import to_rgb
from difffit_core.errors import DatasetError
from tests.odd_pictures import ODD, SIZE, saved


@pytest.mark.parametrize("name", ODD)
def test_a_picture_is_upright_rgb_of_8_bits_on_white(tmp_path: Path, name: str) -> None:
    make, levels = ODD[name]
    data = make()
    with Image.open(io.BytesIO(data)) as opened:
        rgb = to_rgb(opened)
    assert (rgb.mode, rgb.size) == ("RGB", SIZE)
    for x, level in ((1, levels[0]), (6, levels[1])):
        assert rgb.getpixel((x, 2)) == pytest.approx((level,) * 3, abs=1)
    (tmp_path / "picture").write_bytes(data)
    left, right = load_picture(tmp_path / "picture", (4, 4))[:, 2, [0, 3]].T.add(1).mul(127.5).tolist()
    assert (left, right) == (pytest.approx([levels[0]] * 3, abs=1), pytest.approx([levels[1]] * 3, abs=1))


@pytest.mark.parametrize("mode", ["I", "F"])
def test_a_picture_whose_white_is_unknown_is_refused(mode: str) -> None:
    with Image.open(io.BytesIO(saved(Image.new(mode, SIZE), "TIFF"))) as opened, pytest.raises(DatasetError) as raised:
        to_rgb(opened)
    assert raised.value.code == "unknown_depth"
