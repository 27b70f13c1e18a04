"""The networks of bases: a ControlNet that is copied from its UNet, and what PixArt is told of a picture's size."""

from typing import Any

import pytest
import torch
from diffusers import PixArtTransformer2DModel

from difffit_core.families.networks import copy_channels, load_network, predict, steering
from difffit_core.methods.config import named_method
from difffit_core.methods.injection import prepare, trained_parameters
from difffit_core.spec.catalog import BaseModelEntry
from tests.tiny_models import tiny_unet

METHODS = ["difffit", "bitfit", "lora", "full", "adapter-parallel"]


@pytest.fixture
def base(tiny_bases: dict[str, BaseModelEntry]) -> BaseModelEntry:
    return tiny_bases["text-to-image"]


def test_a_copied_controlnet_is_its_unets_first_half_and_changes_nothing_yet(base: BaseModelEntry) -> None:
    copy, unet = load_network(base, "controlnet"), tiny_unet()
    for name, tensor in unet.state_dict().items():
        if name.startswith(("down_blocks", "mid_block", "time_embedding", "conv_in")):
            assert torch.equal(copy.state_dict()[name], tensor)
    latents, timesteps = torch.randn(2, 4, 8, 8), torch.tensor([5, 500])
    prompts = {"text": torch.randn(2, 7, 16)}
    residuals = steering(copy, latents, timesteps, prompts, torch.rand(2, 3, 16, 16))
    assert torch.equal(predict(unet, latents, timesteps, prompts, residuals), predict(unet, latents, timesteps, prompts))


def test_a_copy_starts_from_the_same_numbers_in_every_job(base: BaseModelEntry) -> None:
    torch.manual_seed(1)
    one = load_network(base, "controlnet").state_dict()
    torch.manual_seed(2)
    two = load_network(base, "controlnet").state_dict()
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_whole_what_is_new_in_a_copy(base: BaseModelEntry, method: str) -> None:
    copy = load_network(base, "controlnet")
    prepare(copy, named_method(method))
    trained = trained_parameters(copy).keys()
    new = {name for name, _ in copy.named_parameters() if name.startswith(("controlnet_", "controlnet_cond_embedding"))}
    assert new <= trained
    assert not any(name.startswith("controlnet_") and name.endswith("gamma") for name in trained)


@pytest.mark.parametrize(("factor", "widths"), [(2, (16, 32)), (8, (16, 32, 96, 256)), (32, (16, 32, 96, 256, 256, 256))])
def test_the_condition_embedding_halves_a_picture_down_to_the_size_of_latents(
    base: BaseModelEntry, factor: int, widths: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BaseModelEntry, "pixels_per_latent", lambda entry: factor)
    assert copy_channels(base) == widths


def test_the_larger_pixart_models_are_told_the_size_of_the_picture() -> None:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 24, "num_layers": 1, "sample_size": 8}
    settings |= {"cross_attention_dim": 48, "caption_channels": 12, "use_additional_conditions": True}
    model = PixArtTransformer2DModel(**settings).eval()
    latents, timesteps = torch.randn(2, 4, 8, 16), torch.tensor([5, 500])
    prompts = {"text": torch.randn(2, 7, 12), "text_mask": torch.ones(2, 7)}
    sizes = {"resolution": torch.tensor([[64.0, 128.0]] * 2), "aspect_ratio": torch.tensor([[0.5]] * 2)}
    with torch.no_grad():
        expected = model(
            latents,
            encoder_hidden_states=prompts["text"],
            encoder_attention_mask=prompts["text_mask"],
            timestep=timesteps,
            added_cond_kwargs=sizes,
        ).sample
        assert torch.equal(predict(model, latents, timesteps, prompts), expected)
