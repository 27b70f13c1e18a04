"""Pictures of prompts are those of the stock pipelines for the same noise, and depend on their own seed and prompt alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, StableDiffusionPipeline
from PIL import ExifTags, Image

from difffit_core.errors import SpecError
from difffit_core.sampling.denoising import make_scheduler
from difffit_core.sampling.registry import load_generator
from difffit_core.spec.catalog import BaseModelEntry
from difffit_core.spec.generation import GenerationSpec

Bases = dict[str, BaseModelEntry]

PROMPTS = ["a red cat", "two dogs"]
CONDITION = Image.fromarray(np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3))


def spec(**changes: object) -> GenerationSpec:
    values = {"prompts": PROMPTS, "negative_prompt": "blue", "steps": 3, "guidance_scale": 4.0, "seed": 7, "scheduler": "ddim"}
    return GenerationSpec.model_validate(values | changes)


def noise(seed: int, count: int, height: int = 8, width: int = 8) -> torch.Tensor:
    """What `denoise` starts from."""
    return torch.stack([torch.randn(4, height, width, generator=torch.Generator().manual_seed(seed + i)) for i in range(count)])


def stock_pictures(pipeline: object, base: Path, **settings: object) -> np.ndarray:
    """`[N, H, W, 3]` in 0 to 255."""
    pipeline.scheduler = make_scheduler(base, "ddim", learned_variance=False)  # type: ignore[attr-defined]
    pipeline.set_progress_bar_config(disable=True)  # type: ignore[attr-defined]
    common = {"prompt": PROMPTS, "negative_prompt": ["blue"] * len(PROMPTS), "num_inference_steps": 3, "guidance_scale": 4.0}
    common |= {"latents": noise(7, len(PROMPTS)), "output_type": "np"}
    output = pipeline(**common | settings)  # type: ignore[operator]
    return 255 * np.asarray(output.images)


def assert_same(pictures: list[Image.Image], stock: np.ndarray) -> None:
    ours = np.stack([np.asarray(picture, dtype=np.float32) for picture in pictures])
    assert np.abs(ours - stock).max() < 0.6  # of 255: ours are rounded


def test_stable_diffusion_draws_what_its_stock_pipeline_does(tiny_bases: Bases) -> None:
    base = tiny_bases["text-to-image"]
    pipeline = StableDiffusionPipeline.from_pretrained(base.path)
    assert_same(load_generator(base, "cpu").images(spec()), stock_pictures(pipeline, base.path))


def test_a_controlnet_steers_as_in_its_stock_pipeline(tiny_bases: Bases) -> None:
    base = tiny_bases["controlnet"]
    generator = load_generator(base, "cpu")
    for convolution in (*generator.network.controlnet_down_blocks, generator.network.controlnet_cond_embedding.conv_out):
        torch.nn.init.normal_(convolution.weight, std=0.3)  # as after some training
    controlnet = ControlNetModel.from_config(generator.network.config)
    controlnet.load_state_dict(generator.network.state_dict())
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(base.path, controlnet=controlnet)
    pictures = generator.images(spec(), CONDITION)
    assert_same(pictures, stock_pictures(pipeline, base.path, image=[CONDITION] * 2))
    black = generator.images(spec(), Image.new("RGB", (16, 16)))
    assert pictures[0].tobytes() != black[0].tobytes()


def test_other_sizes_are_drawn_as_the_stock_pipelines_draw_them(tiny_bases: Bases) -> None:
    sizes: dict[str, object] = {"width": 24, "height": 16}
    base = tiny_bases["text-to-image"]
    pictures = load_generator(base, "cpu").images(spec(**sizes))
    assert pictures[0].size == (24, 16)
    pipeline = StableDiffusionPipeline.from_pretrained(base.path)
    assert_same(pictures, stock_pictures(pipeline, base.path, latents=noise(7, 2, 8, 12), **sizes))


def test_pixart_draws_wide_and_tall(tiny_bases: Bases) -> None:
    generator = load_generator(tiny_bases["text-to-image-pixart"], "cpu")
    for size in ((24, 16), (16, 24), (16, 16)):
        picture = generator.images(spec(prompts=PROMPTS[:1], width=size[0], height=size[1]))[0]
        assert picture.size == size
    assert picture.tobytes() == generator.images(spec(prompts=PROMPTS[:1]))[0].tobytes()


@pytest.mark.parametrize(("shape", "size"), [((30, 20), (20, 12)), ((9, 18), (12, 24)), ((50, 49), (16, 16))])
def test_pictures_have_the_ratio_of_their_condition(tiny_bases: Bases, shape: tuple[int, int], size: tuple[int, int]) -> None:
    generator = load_generator(tiny_bases["controlnet"], "cpu")
    assert generator.images(spec(prompts=PROMPTS[:1]), CONDITION.resize(shape))[0].size == size
    turned = CONDITION.resize(shape)
    turned.getexif()[ExifTags.Base.Orientation] = 6
    assert generator.images(spec(prompts=PROMPTS[:1]), turned)[0].size == size[::-1]
    asked = spec(prompts=PROMPTS[:1], width=16, height=16)
    assert generator.images(asked, CONDITION.resize(shape))[0].size == (16, 16)


@pytest.mark.parametrize(("case", "param"), [("text-to-image", "height"), ("class-conditional", "width")])
def test_a_size_that_is_not_made_is_refused(tiny_bases: Bases, case: str, param: str) -> None:
    told: dict[str, object] = {"labels": [0], "prompts": []} if case == "class-conditional" else {}
    with pytest.raises(SpecError) as caught:
        load_generator(tiny_bases[case], "cpu").images(spec(width=20, height=18, **told))
    assert (caught.value.code, caught.value.param) == ("wrong_size", param)


def test_larger_pictures_are_drawn_fewer_at_a_time(tiny_bases: Bases) -> None:
    generator = load_generator(tiny_bases["text-to-image"], "cpu")
    batches: list[tuple[int, ...]] = []
    hook = generator.network.register_forward_pre_hook(lambda _network, given: batches.append(tuple(given[0].shape)))
    generator.images(spec(prompts=["x"] * 5, steps=1, guidance_scale=1.0, width=32, height=32))
    hook.remove()
    assert batches == [(2, 4, 16, 16), (2, 4, 16, 16), (1, 4, 16, 16)]


def test_a_picture_depends_on_its_own_seed_and_prompt_only(tiny_bases: Bases, precision: str, device: torch.device) -> None:
    generator = load_generator(tiny_bases["text-to-image"], str(device))
    many = generator.images(spec(prompts=["x", *PROMPTS] * 3))  # more than are drawn at once
    alone = generator.images(spec(prompts=[PROMPTS[1]], seed=15))
    difference = np.asarray(many[8], dtype=int) - np.asarray(alone[0], dtype=int)
    # On the CPU pictures are drawn in fp32; a GPU's bf16 has 8 bits, of which a batch of another size may round the last.
    assert np.abs(difference).max() <= (8 if (precision, device.type) == ("bf16", "cuda") else 1)
    assert many[8].tobytes() != many[5].tobytes()


def test_the_negative_prompt_and_guidance_tell(tiny_bases: Bases) -> None:
    generator = load_generator(tiny_bases["text-to-image"], "cpu")
    settings: list[dict[str, object]] = [{}, {"negative_prompt": ""}, {"guidance_scale": 1.0}]
    assert len({generator.images(spec(**changes))[0].tobytes() for changes in settings}) == 3


@pytest.mark.parametrize(
    ("task", "changes", "condition", "param"),
    [
        ("class-conditional", {}, None, "prompts"),
        ("class-conditional", {"labels": [0], "prompts": []}, CONDITION, "condition_image"),
        ("text-to-image", {"labels": [0], "prompts": []}, None, "labels"),
        ("text-to-image", {}, CONDITION, "condition_image"),
        ("controlnet", {}, None, "condition_image"),
        ("instruction", {}, None, "prompts"),
    ],
)
def test_what_a_model_does_not_take_or_lacks_is_refused_by_its_field(
    tiny_bases: Bases, task: str, changes: dict[str, object], condition: Image.Image | None, param: str
) -> None:
    with pytest.raises(SpecError) as caught:
        load_generator(tiny_bases[task], "cpu").images(spec(**changes), condition)
    assert caught.value.param == param
