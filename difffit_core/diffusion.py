"""The diffusion process of a base model: noising, what the network predicts, and the training loss."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDPMScheduler
from torch import Tensor

VLB_WEIGHT = 0.001  # of L_vlb beside L_simple (Nichol & Dhariwal 2021, section 3.1); DiT and DiffFit keep it


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
    process = DDPMScheduler(
        num_train_timesteps=config["num_train_timesteps"],
        beta_schedule=config["beta_schedule"],
        beta_start=config["beta_start"],
        beta_end=config["beta_end"],
    )
    return Diffusion(process.alphas_cumprod, config.get("prediction_type", "epsilon"), min_snr_gamma)


def add_noise(diffusion: Diffusion, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """`x_t = sqrt(a) x_0 + sqrt(1 - a) e` for latents and noise `[B, C, H, W]` at timesteps `[B]`."""
    signal, spread = _signal_and_spread(diffusion, timesteps)
    return signal * latents + spread * noise


def per_sample_loss(diffusion: Diffusion, output: Tensor, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """The loss `[B]` of the network's `output` `[B, C or 2 C, H, W]` at `x_t`.

    Mean squared error against the noise or against v (Salimans & Ho 2022), weighted by min-SNR where the base asks for
    it (Hang et al. 2023); a network that also learns the variance adds 0.001 L_vlb.
    """
    channels = latents.shape[1]
    prediction = output[:, :channels]
    signal, spread = _signal_and_spread(diffusion, timesteps)
    is_velocity = diffusion.prediction == "v_prediction"
    target = signal * noise - spread * latents if is_velocity else noise
    loss = (prediction - target).square().mean(dim=(1, 2, 3))
    if diffusion.min_snr_gamma is not None:
        snr = (signal / spread).square().flatten()
        clipped = snr.clamp(max=diffusion.min_snr_gamma)
        loss = loss * clipped / (snr + 1 if is_velocity else snr)
    if output.shape[1] == 2 * channels:
        variational = _variational_bound(diffusion, prediction.detach(), output[:, channels:], latents, noise, timesteps)
        loss = loss + VLB_WEIGHT * diffusion.steps * variational
    return loss


def _signal_and_spread(diffusion: Diffusion, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    alphas = diffusion.alphas_cumprod[timesteps][:, None, None, None]  # [B, 1, 1, 1]
    return alphas.sqrt(), (1 - alphas).sqrt()


def _variational_bound(
    diffusion: Diffusion, epsilon: Tensor, interpolation: Tensor, latents: Tensor, noise: Tensor, timesteps: Tensor
) -> Tensor:
    """One term of L_vlb in bits per dimension, `[B]` (Ho et al. 2020, eq. 5; variance of Nichol & Dhariwal 2021, eq. 15).

    `interpolation` in [-1, 1] mixes the logarithms of the smallest and largest sensible variance; `epsilon` must be
    detached, so that this term trains the variance alone.
    """
    alphas = diffusion.alphas_cumprod
    before = torch.cat([alphas.new_ones(1), alphas[:-1]])
    betas = 1 - alphas / before
    posterior_variance = betas * (1 - before) / (1 - alphas)
    log_smallest = torch.cat([posterior_variance[1:2], posterior_variance[1:]]).log()  # the first is zero: use the second

    def at(values: Tensor) -> Tensor:
        return values[timesteps][:, None, None, None].float()

    x_t = at(alphas.sqrt()) * latents + at((1 - alphas).sqrt()) * noise
    predicted = (x_t - at((1 - alphas).sqrt()) * epsilon) / at(alphas.sqrt())
    weight_x0, weight_xt = before.sqrt() * betas / (1 - alphas), (alphas / before).sqrt() * (1 - before) / (1 - alphas)
    true_mean = at(weight_x0) * latents + at(weight_xt) * x_t
    mean = at(weight_x0) * predicted + at(weight_xt) * x_t
    share = (interpolation + 1) / 2
    log_variance = share * at(betas.log()) + (1 - share) * at(log_smallest)
    true_log_variance = at(log_smallest)
    divergence = 0.5 * (
        log_variance - true_log_variance - 1 + (true_log_variance - log_variance).exp()
        + (true_mean - mean).square() * (-log_variance).exp()
    )  # fmt: skip
    likelihood = -_discretized_log_likelihood(latents, mean, 0.5 * log_variance)
    first = (timesteps == 0)[:, None, None, None]
    return torch.where(first, likelihood, divergence).mean(dim=(1, 2, 3)) / math.log(2)


def _discretized_log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log-probability of values in [-1, 1] quantized to 256 levels under a Gaussian (Ho et al. 2020, eq. 13)."""
    precision = (-log_scale).exp()
    normal = torch.distributions.Normal(0.0, 1.0)
    above = normal.cdf(precision * (x - mean + 1 / 255))
    below = normal.cdf(precision * (x - mean - 1 / 255))
    inside = (above - below).clamp(min=1e-12)
    edges = torch.where(x < -0.999, above.clamp(min=1e-12), inside)
    return torch.where(x > 0.999, (1 - below).clamp(min=1e-12), edges).log()
