"""Which sizes a model is asked for with success; those in between are refused by the side that is wrong."""

import pytest

from difffit_core.data.buckets import bucket_sizes
from difffit_core.errors import SpecError
from difffit_core.sampling.picture_size import check_size
from difffit_core.spec.catalog import BaseModelEntry


@pytest.mark.parametrize(
    ("case", "size"),
    [
        ("text-to-image", (16, 16)),
        ("text-to-image", (24, 16)),
        ("text-to-image", (4, 64)),
        ("text-to-image", (32, 32)),
        ("text-to-image-pixart", (20, 12)),
        ("controlnet", (24, 40)),
        ("class-conditional", (16, 16)),
    ],
)
def test_sizes_near_to_the_trained_one_are_made(
    tiny_bases: dict[str, BaseModelEntry], case: str, size: tuple[int, int]
) -> None:
    check_size(size, 16, tiny_bases[case])


@pytest.mark.parametrize(
    ("case", "size", "param", "words"),
    [
        ("text-to-image", (18, 16), "width", "multiples of 4 from 4 to 64"),
        ("text-to-image", (16, 2), "height", "multiples of 4"),
        ("text-to-image", (16, 68), "height", "to 64 pixels"),
        ("text-to-image", (36, 32), "width", "4 times the area"),
        ("text-to-image-pixart", (32, 36), "height", "4 times the area"),
        ("class-conditional", (32, 16), "width", "it makes 16x16"),
        ("class-conditional", (16, 32), "height", "it makes 16x16"),
    ],
)
def test_others_are_refused_by_the_side_that_is_wrong(
    tiny_bases: dict[str, BaseModelEntry], case: str, size: tuple[int, int], param: str, words: str
) -> None:
    with pytest.raises(SpecError, match=words) as caught:
        check_size(size, 16, tiny_bases[case])
    assert (caught.value.code, caught.value.param) == ("wrong_size", param)


def test_what_an_adapter_was_trained_on_counts(tiny_bases: dict[str, BaseModelEntry]) -> None:
    base = tiny_bases["text-to-image"]
    for size in bucket_sizes(64, base.pixels_per_token()):
        check_size(size, 64, base)
    with pytest.raises(SpecError, match="more than this model was trained on"):
        check_size((64, 96), 64, base)
    check_size((32, 32), 8, base)
    check_size((32, 32), 32, tiny_bases["class-conditional"])
