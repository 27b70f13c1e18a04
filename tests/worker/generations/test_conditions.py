"""Condition pictures: what a worker beside its models makes of what somebody sent."""

from typing import Any

import pytest
from PIL import Image

from difffit_core.errors import SpecError
from jobstore.kit.objects import ObjectStore
from tests.odd_pictures import ODD, SIZE
from tests.worker.pictures import huge_picture
from worker.generations.conditions import load_condition


@pytest.mark.parametrize("name", ["cmyk jpeg", "rotated", "palette with transparency", "animated webp"])
def test_only_pixels_come_into_this_process(store: ObjectStore, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    make, levels = ODD[name]
    store.put_bytes("conditions/a", make())

    def nothing(*arguments: Any, **options: Any) -> None:
        raise AssertionError("a picture is opened beside the models")

    monkeypatch.setattr(Image, "open", nothing)
    condition = load_condition("conditions/a")
    assert (type(condition), condition.mode, condition.size, condition.info) == (Image.Image, "RGB", SIZE, {})
    halves = [condition.getpixel((x, 1)) for x in (1, SIZE[0] - 2)]
    assert halves == [pytest.approx((level,) * 3, abs=1) for level in levels]


def test_what_cannot_be_used_says_why(store: ObjectStore) -> None:
    for data, code in ((huge_picture(), "too_many_pixels"), (b"no picture", "not_an_image")):
        store.put_bytes("conditions/b", data)
        with pytest.raises(SpecError) as raised:
            load_condition("conditions/b")
        assert (raised.value.code, raised.value.param) == (code, "condition_image")
