"""The diffusion process of a base model: noising, what the network predicts, and which objective that calls for."""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from difffit_core.process.objectives import epsilon_loss, hybrid_loss, min_snr_weight, variational_bound, velocity_loss


@dataclass(frozen=True)
class Diffusion:
    """A discrete diffusion of T steps. `alphas_cumprod` `[T]`; prediction is "epsilon" or "v_prediction"."""

    alphas_cumprod: Tensor
    prediction: str
    min_snr_gamma: float | None

    @property
    def steps(self) -> int:
        return len(self.alphas_cumprod)

    def to(self, device: torch.device) -> "Diffusion":
        return Diffusion(self.alphas_cumprod.to(device), self.prediction, self.min_snr_gamma)


def load_diffusion(base: Path, min_snr_gamma: float | None) -> Diffusion:
    """The process that `scheduler/scheduler_config.json` of a diffusers folder describes."""
    config = DDPMScheduler.load_config(base, subfolder="scheduler")
    betas = ("num_train_timesteps", "beta_schedule", "beta_start", "beta_end", "trained_betas", "rescale_betas_zero_snr")
    process = DDPMScheduler(**{name: config[name] for name in betas if name in config})
    return Diffusion(process.alphas_cumprod, config.get("prediction_type", "epsilon"), min_snr_gamma)


def add_noise(diffusion: Diffusion, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """`x_t = sqrt(a) x_0 + sqrt(1 - a) e` for latents and noise `[B, C, H, W]` at timesteps `[B]`."""
    signal, spread = _signal_and_spread(diffusion, timesteps)
    return signal * latents + spread * noise


def per_sample_loss(diffusion: Diffusion, output: Tensor, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """The loss `[B]` of the network's `output` `[B, C or 2 C, H, W]` at `x_t`.

    The squared error of the noise or of v, weighted by min-SNR where the base asks for it; a network that also learns
    the variance adds 0.001 L_vlb.
    """
    channels = latents.shape[1]
    prediction = output[:, :channels]
    signal, spread = _signal_and_spread(diffusion, timesteps)
    is_velocity = diffusion.prediction == "v_prediction"
    loss = velocity_loss(prediction, latents, noise, signal, spread) if is_velocity else epsilon_loss(prediction, noise)
    if diffusion.min_snr_gamma is not None:
        loss = loss * min_snr_weight((signal / spread).square().flatten(), diffusion.min_snr_gamma, is_velocity)
    if output.shape[1] == 2 * channels:
        epsilon = prediction.detach()
        if is_velocity:
            epsilon = signal * epsilon + spread * (signal * latents + spread * noise)
        variational = variational_bound(diffusion.alphas_cumprod, epsilon, output[:, channels:], latents, noise, timesteps)
        loss = hybrid_loss(loss, variational, diffusion.steps)
    return loss


def _signal_and_spread(diffusion: Diffusion, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    alphas = diffusion.alphas_cumprod[timesteps][:, None, None, None]  # [B, 1, 1, 1]
    return alphas.sqrt(), (1 - alphas).sqrt()
