"""Sampling: seeds, guidance, schedulers, and that a picture depends on its own seed alone."""

from typing import get_args

import pytest
import torch

from difffit_core.errors import SpecError
from difffit_core.families.dit.network import load_transformer
from difffit_core.sampling.denoising import denoise, grid, sample_latents
from difffit_core.sampling.registry import load_generator
from difffit_core.spec.catalog import BaseModelEntry
from difffit_core.spec.generation import GenerationSpec, Scheduler


def spec(scheduler: Scheduler = "dpmsolver++", **changes: object) -> GenerationSpec:
    values = {"labels": [0, 1, 2], "steps": 4, "guidance_scale": 3.0, "seed": 7, "scheduler": scheduler}
    return GenerationSpec.model_validate(values | changes)


@pytest.mark.parametrize("scheduler", get_args(Scheduler))
def test_the_same_request_gives_the_same_bytes(tiny_base: BaseModelEntry, scheduler: Scheduler) -> None:
    one = load_generator(tiny_base, device="cpu").images(spec(scheduler))
    two = load_generator(tiny_base, device="cpu").images(spec(scheduler))
    assert [picture.tobytes() for picture in one] == [picture.tobytes() for picture in two]
    other = load_generator(tiny_base, device="cpu").images(spec(scheduler, seed=8))
    assert one[0].tobytes() != other[0].tobytes()


@pytest.mark.parametrize("scheduler", get_args(Scheduler))
def test_bases_with_learned_variance_sample_with_every_scheduler(
    tiny_learned_base: BaseModelEntry, scheduler: Scheduler
) -> None:
    latents = sample_latents(load_transformer(tiny_learned_base.path), tiny_learned_base.path, spec(scheduler))
    assert latents.shape == (3, 4, 8, 8)
    assert latents.isfinite().all()


@pytest.mark.parametrize("learned_variance", [False, True])
@pytest.mark.parametrize("scheduler", get_args(Scheduler))
def test_latents_stay_where_the_network_is(tiny_base: BaseModelEntry, scheduler: Scheduler, learned_variance: bool) -> None:
    """On any device: of this one tensors have only their shapes, and it mixes with the CPU as little as a GPU does."""

    def predict(latents: torch.Tensor, timesteps: torch.Tensor, conditions: torch.Tensor) -> torch.Tensor:
        assert {t.device.type for t in (latents, timesteps, conditions)} == {"meta"}
        return torch.cat([latents, latents], dim=1) if learned_variance else latents

    labels = torch.zeros(3, dtype=torch.long, device="meta")
    made = denoise(predict, labels, labels, (4, 8, 8), tiny_base.path, spec(scheduler), learned_variance)
    assert (made.device.type, made.shape) == ("meta", (3, 4, 8, 8))


@pytest.mark.parametrize("scheduler", get_args(Scheduler))
def test_an_image_depends_on_its_own_seed_and_label_only(tiny_base: BaseModelEntry, scheduler: Scheduler) -> None:
    model = load_transformer(tiny_base.path)
    together = sample_latents(model, tiny_base.path, spec(scheduler))
    alone = sample_latents(model, tiny_base.path, spec(scheduler, labels=[1], seed=8))
    torch.testing.assert_close(together[1], alone[0], atol=1e-4, rtol=1e-4)


def test_a_label_the_model_does_not_have_is_refused(tiny_base: BaseModelEntry) -> None:
    with pytest.raises(SpecError, match="0 to 2"):
        load_generator(tiny_base, device="cpu").images(spec(labels=[3]))


def test_guidance_moves_from_unconditional_through_conditional(tiny_base: BaseModelEntry) -> None:
    model = load_transformer(tiny_base.path)
    at = {scale: sample_latents(model, tiny_base.path, spec(guidance_scale=scale, steps=1)) for scale in (0.0, 1.0, 2.0)}
    torch.testing.assert_close(at[2.0] - at[1.0], at[1.0] - at[0.0], atol=1e-4, rtol=1e-3)
    assert not torch.equal(at[0.0], at[1.0])


def test_grid_lays_pictures_out_in_rows(tiny_base: BaseModelEntry) -> None:
    sheet = grid(load_generator(tiny_base, device="cpu").images(spec()), columns=2)
    assert sheet.size == (2 * 18 + 2, 2 * 18 + 2)
