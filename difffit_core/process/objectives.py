"""Training objectives as functions of tensors: each gives the loss `[B]` of a batch's examples, or a part of it."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

VLB_WEIGHT = 0.001  # of L_vlb beside L_simple (Nichol & Dhariwal 2021, section 3.1); DiT and DiffFit keep it
IGNORED = -100  # the target of a token that is given, not predicted


def epsilon_loss(prediction: Tensor, noise: Tensor) -> Tensor:
    """L_simple of Ho et al. 2020, eq. 14: the mean squared error `[B]` of predicted noise `[B, C, H, W]`."""
    return (prediction - noise).square().mean(dim=(1, 2, 3))


def velocity_loss(prediction: Tensor, latents: Tensor, noise: Tensor, signal: Tensor, spread: Tensor) -> Tensor:
    """Mean squared error `[B]` of v = signal · noise − spread · x_0 (Salimans & Ho 2022); signal and spread `[B, 1, 1, 1]`."""
    return (prediction - (signal * noise - spread * latents)).square().mean(dim=(1, 2, 3))


def min_snr_weight(snr: Tensor, gamma: float, is_velocity: bool) -> Tensor:
    """The weight `[B]` that brings either loss to min(SNR, gamma) times the error of x_0 (Hang et al. 2023); snr `[B]`."""
    return snr.clamp(max=gamma) / (snr + 1 if is_velocity else snr)


def hybrid_loss(simple: Tensor, variational: Tensor, steps: int) -> Tensor:
    """L_simple + 0.001 L_vlb, `[B]`: L_vlb is a sum over all `steps`, which `variational` `[B]` is one random term of."""
    return simple + VLB_WEIGHT * steps * variational


def variational_bound(
    alphas_cumprod: Tensor, epsilon: Tensor, interpolation: Tensor, latents: Tensor, noise: Tensor, timesteps: Tensor
) -> Tensor:
    """One term of L_vlb in bits per dimension, `[B]` (Ho et al. 2020, eq. 5; variance of Nichol & Dhariwal 2021, eq. 15).

    `alphas_cumprod` `[T]`, `timesteps` `[B]`, the others `[B, C, H, W]`. `interpolation` in [-1, 1] mixes the logarithms of
    the smallest and largest sensible variance; `epsilon` must be detached, so that this term trains the variance alone.
    """
    alphas = alphas_cumprod
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
    divergence = gaussian_divergence(true_mean, at(log_smallest), mean, log_variance)
    likelihood = -discretized_log_likelihood(latents, mean, 0.5 * log_variance)
    first = (timesteps == 0)[:, None, None, None]
    return torch.where(first, likelihood, divergence).mean(dim=(1, 2, 3)) / math.log(2)


def gaussian_divergence(true_mean: Tensor, true_log_variance: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(true ‖ model) of two normal distributions, element by element, in nats."""
    return 0.5 * (
        log_variance - true_log_variance - 1 + (true_log_variance - log_variance).exp()
        + (true_mean - mean).square() * (-log_variance).exp()
    )  # fmt: skip


def discretized_log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log-probability of values in [-1, 1] quantized to 256 levels under a Gaussian (Ho et al. 2020, eq. 13)."""
    precision = (-log_scale).exp()
    normal = torch.distributions.Normal(0.0, 1.0, validate_args=False)  # validating would wait for the GPU
    above = normal.cdf(precision * (x - mean + 1 / 255))
    below = normal.cdf(precision * (x - mean - 1 / 255))
    inside = (above - below).clamp(min=1e-12)
    edges = torch.where(x < -0.999, above.clamp(min=1e-12), inside)
    return torch.where(x > 0.999, (1 - below).clamp(min=1e-12), edges).log()


def next_token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy `[B]` of each example's tokens: `logits` `[B, L, V]` at i predict `targets` `[B, L]` at i + 1.

    Targets that are `IGNORED` cost nothing; every example needs one that is not. An example counts once, however
    long it is, so that the loss of a batch does not depend on how the batch is split up.
    """
    following = targets[:, 1:]
    losses = F.cross_entropy(logits[:, :-1].transpose(1, 2).float(), following, ignore_index=IGNORED, reduction="none")
    return losses.sum(dim=1) / (following != IGNORED).sum(dim=1)  # [B]
