"""Variants of pictures: reproducible, and mirrored or turned only where that keeps the meaning."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from examples.emoji_dit.variants import COPIES, variant, write_variants


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A dark left half on white, in a class that may be mirrored and in one that may not."""
    for name in ("animal-bird", "time"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        sheet = Image.new("RGB", (64, 64), "white")
        sheet.paste((20, 40, 60), (8, 16, 32, 48))
        sheet.save(tmp_path / "pictures" / name / "1f426.png")
    return tmp_path / "pictures"


def left_is_darker(picture: Image.Image) -> bool:
    grey = np.asarray(picture.convert("L")).astype(float)
    return bool(grey[:, :32].mean() < grey[:, 32:].mean())


def test_each_picture_gets_its_copies_and_the_first_is_the_picture(pictures: Path, tmp_path: Path) -> None:
    write_variants(pictures, tmp_path / "variants")
    copies = sorted((tmp_path / "variants" / "animal-bird").iterdir())
    assert [path.name for path in copies] == [f"1f426-{copy}.png" for copy in range(COPIES)]
    with Image.open(copies[0]) as first, Image.open(pictures / "animal-bird" / "1f426.png") as picture:
        assert first.tobytes() == picture.tobytes()
    assert len({path.read_bytes() for path in copies}) == COPIES


def test_only_pictures_without_a_right_way_round_are_mirrored(pictures: Path) -> None:
    with Image.open(pictures / "time" / "1f426.png") as picture:
        names = [f"name/{number}" for number in range(1, 17)]
        assert {left_is_darker(variant(picture, name, one_way=False)) for name in names} == {True, False}
        assert {left_is_darker(variant(picture, name, one_way=True)) for name in names} == {True}


def test_equal_names_give_equal_copies(pictures: Path) -> None:
    with Image.open(pictures / "time" / "1f426.png") as picture:
        one, two = (variant(picture, "1f426/3", one_way=False) for _ in range(2))
    assert one.tobytes() == two.tobytes()
