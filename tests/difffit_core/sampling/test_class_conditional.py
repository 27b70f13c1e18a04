"""A generator keeps its base and takes one adapter after the other, merged or not, at any strength."""

from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from difffit_core.adapters.file import Adapter
from difffit_core.errors import AdapterError
from difffit_core.sampling.generator import Generator
from difffit_core.sampling.registry import load_generator
from difffit_core.spec.catalog import BaseModelEntry
from difffit_core.spec.generation import GenerationSpec
from tests.difffit_core.cases import make_case

SPEC = GenerationSpec(labels=[1, 0], steps=2, guidance_scale=2.0, seed=0, scheduler="ddim")


def adapter_of(base: BaseModelEntry, seed: int, **method: Any) -> Adapter:
    header, tensors = make_case("dit").adapter(seed, ["star", "tree"], **method)
    return Adapter(replace(header, base_sha256=base.sha256()), tensors)


def pixels(pictures: list[Image.Image]) -> list[bytes]:
    return [picture.tobytes() for picture in pictures]


@pytest.fixture
def generator(tiny_base: BaseModelEntry) -> Generator:
    return load_generator(tiny_base, device="cpu")


def test_adapters_follow_one_another_and_the_base_returns(generator: Generator, tiny_base: BaseModelEntry) -> None:
    base = pixels(generator.images(SPEC))
    made = []
    for adapter in (adapter_of(tiny_base, 0), adapter_of(tiny_base, 1), adapter_of(tiny_base, 2, type="adapter-parallel")):
        generator.use(adapter)
        assert generator.class_names == ["star", "tree"]
        made.append(pixels(generator.images(SPEC)))
        fresh = load_generator(tiny_base, device="cpu")
        fresh.use(adapter)
        assert pixels(fresh.images(SPEC)) == made[-1]
    generator.use(None)
    assert generator.class_names == tiny_base.class_names()
    assert pixels(generator.images(SPEC)) == base
    assert len({tuple(pictures) for pictures in (base, *made)}) == 4


def test_the_strength_is_the_specs(generator: Generator, tiny_base: BaseModelEntry) -> None:
    generator.use(adapter_of(tiny_base, 0))
    whole, half, off = (pixels(generator.images(SPEC.model_copy(update={"adapter_strength": s}))) for s in (1.0, 0.5, 0.0))
    assert len({tuple(pictures) for pictures in (whole, half, off)}) == 3
    assert pixels(generator.images(SPEC)) == whole


def test_an_adapter_that_cannot_be_merged_has_no_strength(generator: Generator, tiny_base: BaseModelEntry) -> None:
    generator.use(adapter_of(tiny_base, 0, type="adapter-parallel"))
    with pytest.raises(AdapterError, match="at strength 1") as caught:
        generator.images(SPEC.model_copy(update={"adapter_strength": 0.5}))
    assert caught.value.code == "not_mergeable"


def test_an_adapter_of_another_base_leaves_the_base_in_use(generator: Generator, tiny_base: BaseModelEntry) -> None:
    base = pixels(generator.images(SPEC))
    with pytest.raises(AdapterError, match="use the base it was trained on"):
        generator.use(make_case("dit").adapter())
    assert pixels(generator.images(SPEC)) == base
