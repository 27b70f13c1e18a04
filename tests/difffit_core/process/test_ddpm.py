"""The training loss against what theory says it must be."""

import pytest
import torch

from difffit_core.process.ddpm import Diffusion, add_noise, per_sample_loss

ALPHAS = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(6, 4, 8, 8).clamp(-1, 1), torch.randn(6, 4, 8, 8), torch.tensor([0, 1, 10, 200, 700, 999])


Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@pytest.mark.parametrize("gamma", [None, 5.0])
def test_a_perfect_prediction_costs_nothing(batch: Batch, gamma: float | None) -> None:
    latents, noise, timesteps = batch
    signal = ALPHAS[timesteps].sqrt()[:, None, None, None]
    spread = (1 - ALPHAS[timesteps]).sqrt()[:, None, None, None]
    velocity = signal * noise - spread * latents
    assert per_sample_loss(Diffusion(ALPHAS, "epsilon", gamma), noise, latents, noise, timesteps).abs().max() == 0
    assert per_sample_loss(Diffusion(ALPHAS, "v_prediction", gamma), velocity, latents, noise, timesteps).abs().max() == 0


def test_min_snr_weights_both_parametrisations_alike(batch: Batch) -> None:
    """The same error of x_0 costs the same whether it is reached through the noise or through v (Hang et al. 2023)."""
    latents, noise, timesteps = batch
    x_t = add_noise(Diffusion(ALPHAS, "epsilon", None), latents, noise, timesteps)
    signal = ALPHAS[timesteps].sqrt()[:, None, None, None].double()
    spread = (1 - ALPHAS[timesteps]).sqrt()[:, None, None, None].double()
    guess = latents.double() + 0.1 * torch.randn_like(latents).double()
    epsilon = (x_t.double() - signal * guess) / spread
    velocity = (signal * x_t.double() - guess) / spread
    of_noise = per_sample_loss(
        Diffusion(ALPHAS, "epsilon", 5.0), epsilon, latents, (x_t - signal * latents) / spread, timesteps
    )
    of_velocity = per_sample_loss(
        Diffusion(ALPHAS, "v_prediction", 5.0), velocity, latents, (x_t - signal * latents) / spread, timesteps
    )
    torch.testing.assert_close(of_noise, of_velocity, rtol=1e-3, atol=1e-5)


def test_without_signal_only_noise_is_left(batch: Batch) -> None:
    latents, noise, timesteps = batch
    x_t = add_noise(Diffusion(torch.full((1000,), 1e-12), "epsilon", None), latents, noise, timesteps)
    torch.testing.assert_close(x_t, noise, atol=1e-5, rtol=0)


def test_the_variational_term_trains_the_variance_alone(batch: Batch) -> None:
    latents, noise, timesteps = batch
    output = torch.randn(6, 8, 8, 8, requires_grad=True)
    simple_output = output.detach()[:, :4].clone().requires_grad_(True)
    diffusion = Diffusion(ALPHAS, "epsilon", None)
    per_sample_loss(diffusion, output, latents, noise, timesteps).sum().backward()
    per_sample_loss(diffusion, simple_output, latents, noise, timesteps).sum().backward()
    assert output.grad is not None
    torch.testing.assert_close(output.grad[:, :4], simple_output.grad)
    assert output.grad[:, 4:].abs().amax(dim=(1, 2, 3)).min() > 0


def test_the_true_posterior_has_no_divergence(batch: Batch) -> None:
    """With the right noise and the smallest variance the model's step is the true posterior, so L_vlb vanishes for t > 0."""
    latents, noise, _ = batch
    timesteps = torch.tensor([1, 2, 10, 200, 700, 999])
    output = torch.cat([noise, torch.full_like(noise, -1.0)], dim=1)
    loss = per_sample_loss(Diffusion(ALPHAS, "epsilon", None), output, latents, noise, timesteps)
    torch.testing.assert_close(loss, torch.zeros(6), atol=1e-4, rtol=0)
