"""Pictures of prompts are those of the stock pipelines for the same noise, and depend on their own seed and prompt alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, StableDiffusionPipeline
from PIL import Image

from difffit_core.base_models import BaseModelEntry
from difffit_core.errors import SpecError
from difffit_core.generation_spec import GenerationSpec
from difffit_core.generators.registry import load_generator
from difffit_core.sampling import make_scheduler

Bases = dict[str, BaseModelEntry]

PROMPTS = ["a red cat", "two dogs"]
CONDITION = Image.fromarray(np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3))


def spec(**changes: object) -> GenerationSpec:
    values = {"prompts": PROMPTS, "negative_prompt": "blue", "steps": 3, "guidance_scale": 4.0, "seed": 7, "scheduler": "ddim"}
    return GenerationSpec.model_validate(values | changes)


def noise(seed: int, count: int) -> torch.Tensor:
    """What `denoise` starts from."""
    return torch.stack([torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(seed + i)) for i in range(count)])


def stock_pictures(pipeline: object, base: Path, **settings: object) -> np.ndarray:
    """`[N, 16, 16, 3]` in 0 to 255."""
    pipeline.scheduler = make_scheduler(base, "ddim", learned_variance=False)  # type: ignore[attr-defined]
    pipeline.set_progress_bar_config(disable=True)  # type: ignore[attr-defined]
    output = pipeline(  # type: ignore[operator]
        prompt=PROMPTS,
        negative_prompt=["blue"] * len(PROMPTS),
        num_inference_steps=3,
        guidance_scale=4.0,
        latents=noise(7, len(PROMPTS)),
        output_type="np",
        **settings,
    )
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


def test_a_picture_depends_on_its_own_seed_and_prompt_only(tiny_bases: Bases) -> None:
    generator = load_generator(tiny_bases["text-to-image"], "cpu")
    many = generator.images(spec(prompts=["x", *PROMPTS] * 3))  # more than are drawn at once
    alone = generator.images(spec(prompts=[PROMPTS[1]], seed=15))
    difference = np.asarray(many[8], dtype=int) - np.asarray(alone[0], dtype=int)
    assert np.abs(difference).max() <= 1
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
