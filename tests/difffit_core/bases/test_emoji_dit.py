"""The base model that ships with the package: complete, small, labelled, and loadable by stock diffusers."""

from pathlib import Path

import pytest
import torch
from diffusers import DiTPipeline
from PIL import ImageStat
from safetensors.torch import load_file

from difffit_core.sampling.registry import load_generator
from difffit_core.spec.catalog import BaseModelEntry, load_catalog
from difffit_core.spec.generation import GenerationSpec

LARGEST = 34e6  # bytes, so that the package stays small enough to install


@pytest.fixture(scope="module")
def base() -> BaseModelEntry:
    return load_catalog()["emoji-dit"]


def test_folder_is_complete_small_and_in_half_precision(base: BaseModelEntry) -> None:
    files = [path for path in base.path.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= LARGEST
    for weights in base.path.rglob("*.safetensors"):
        assert {tensor.dtype for tensor in load_file(weights).values()} == {torch.float16}
    card = (base.path / "README.md").read_text()
    assert "Apache-2.0" in card
    assert "CC-BY 4.0" in card
    assert (base.path / "samples.png").exists()


def test_classes_are_the_subgroups_of_the_emoji_list(base: BaseModelEntry) -> None:
    names = base.class_names()
    assert len(names) == len(set(names)) == 99
    assert {"animal-mammal", "food-fruit", "country-flag", "face-smiling"} <= set(names)


def test_the_demo_dataset_speaks_of_classes_the_base_knows(base: BaseModelEntry) -> None:
    folders = {path.parent.name for path in Path("examples/fluent").rglob("*.png")}
    assert folders <= set(base.class_names())


def test_stock_diffusers_runs_it(base: BaseModelEntry) -> None:
    pipeline = DiTPipeline.from_pretrained(base.path)
    pipeline.set_progress_bar_config(disable=True)
    labels = pipeline.get_label_ids(["food-fruit"])
    images = pipeline(labels, guidance_scale=1, num_inference_steps=2, generator=torch.manual_seed(0)).images
    assert images[0].size == (64, 64)


def test_guided_samples_are_drawings_on_white(base: BaseModelEntry) -> None:
    """Whatever a class looks like, a trained model draws a coloured thing and leaves the corners white."""
    names = base.class_names()
    labels = [names.index(name) for name in ("face-smiling", "food-fruit", "heart", "animal-bird")]
    spec = GenerationSpec(labels=labels, steps=12, guidance_scale=3.0, seed=0, scheduler="dpmsolver++")
    for picture in load_generator(base, device="cpu").images(spec):
        corners = [picture.getpixel(at) for at in ((0, 0), (63, 0), (0, 63), (63, 63))]
        assert sum(min(corner) > 225 for corner in corners if isinstance(corner, tuple)) >= 3
        assert max(ImageStat.Stat(picture).stddev) > 30
