"""The family of a model, told by its class; every tiny base loads as the stock libraries load a published one."""

from pathlib import Path

import pytest
import torch
from diffusers import (
    ControlNetModel,
    PixArtAlphaPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from difffit_core.families.registry import family_of
from tests.tiny_models import (
    tiny_controlnet,
    tiny_dit,
    tiny_llama,
    tiny_pixart,
    tiny_text_encoder,
    tiny_unet,
    write_tiny_controlnet,
    write_tiny_llama,
    write_tiny_pixart,
    write_tiny_stable_diffusion,
)


def test_a_model_belongs_to_the_family_of_its_class() -> None:
    models = [
        tiny_dit(),
        tiny_unet(),
        tiny_controlnet(),
        tiny_pixart(),
        tiny_llama(),
        tiny_llama().model,
        tiny_text_encoder(),
        nn.Linear(2, 2),
    ]
    families = ["dit", "unet", "controlnet", "pixart", "llama", "llama", "generic", "generic"]
    assert [family_of(model) for model in models] == families


def test_a_subclass_belongs_to_the_family_of_its_parent() -> None:
    class OurUNet(UNet2DConditionModel):  # type: ignore[misc]  # diffusers has no types
        """A UNet with a method of its own."""

    with torch.device("meta"):
        assert family_of(OurUNet()) == "unet"


def test_stock_pipelines_load_and_run_the_tiny_stable_diffusion(tmp_path: Path) -> None:
    base, steering = write_tiny_stable_diffusion(tmp_path / "base"), write_tiny_controlnet(tmp_path / "controlnet")
    plain = StableDiffusionPipeline.from_pretrained(base)
    assert plain("a red cat", num_inference_steps=1, output_type="np").images.shape == (1, 16, 16, 3)
    controlnet = ControlNetModel.from_pretrained(steering)
    steered = StableDiffusionControlNetPipeline.from_pretrained(base, controlnet=controlnet)
    condition = torch.rand(1, 3, 16, 16)
    assert steered("a cat", image=condition, num_inference_steps=1, output_type="np").images.shape == (1, 16, 16, 3)


def test_the_stock_pipeline_loads_and_runs_the_tiny_pixart(tmp_path: Path) -> None:
    pipeline = PixArtAlphaPipeline.from_pretrained(write_tiny_pixart(tmp_path))
    output = pipeline("a red cat", num_inference_steps=1, use_resolution_binning=False, output_type="np")
    assert output.images.shape == (1, 16, 16, 3)


@pytest.mark.parametrize("tied", [False, True])
def test_stock_classes_load_and_run_the_tiny_llama(tmp_path: Path, tied: bool) -> None:
    folder = write_tiny_llama(tmp_path, tied=tied)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    batch = tokenizer("Hello wörld", return_tensors="pt")
    assert tokenizer.decode(batch.input_ids[0], skip_special_tokens=True) == "Hello wörld"
    assert model(**batch).logits.shape == (*batch.input_ids.shape, len(tokenizer))
    assert (model.lm_head.weight is model.model.embed_tokens.weight) is tied
    assert family_of(AutoModel.from_pretrained(folder)) == "llama"
