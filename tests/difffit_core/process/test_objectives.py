"""The objectives against numbers computed by hand, with plain arithmetic, one element at a time."""

import math

import pytest
import torch

from difffit_core.process.ddpm import Diffusion, per_sample_loss
from difffit_core.process.objectives import (
    IGNORED,
    discretized_log_likelihood,
    epsilon_loss,
    gaussian_divergence,
    hybrid_loss,
    min_snr_weight,
    next_token_loss,
    variational_bound,
    velocity_loss,
)

ALPHAS = torch.tensor([0.9, 0.6, 0.2])  # cumulative: betas are 0.1, 1/3, 2/3


def pixel(value: float) -> torch.Tensor:
    """One example of one channel and one pixel."""
    return torch.full((1, 1, 1, 1), value)


def test_epsilon_is_the_mean_square_of_each_example() -> None:
    prediction = torch.tensor([[1.0, 3.0], [0.0, 0.5]]).view(2, 1, 1, 2)
    assert epsilon_loss(prediction, torch.zeros(2, 1, 1, 2)).tolist() == [5.0, 0.125]


def test_velocity_by_hand() -> None:
    """signal 0.6, spread 0.8: v = 0.6 · 2 − 0.8 · 1 = 0.4; predicted 1.0, so (0.6)² = 0.36."""
    loss = velocity_loss(pixel(1.0), pixel(1.0), pixel(2.0), pixel(0.6), pixel(0.8))
    torch.testing.assert_close(loss, torch.tensor([0.36]))


def test_min_snr_weights_by_hand() -> None:
    snr = torch.tensor([0.5, 20.0])
    torch.testing.assert_close(min_snr_weight(snr, 5.0, is_velocity=False), torch.tensor([1.0, 0.25]))
    torch.testing.assert_close(min_snr_weight(snr, 5.0, is_velocity=True), torch.tensor([1 / 3, 5 / 21]))


def test_the_divergence_of_two_normal_distributions_by_hand() -> None:
    """KL(N(0, 1) ‖ N(1, 4)) = ln 2 + (1 + 1) / 8 − 1/2."""
    found = gaussian_divergence(pixel(0.0), pixel(0.0), pixel(1.0), pixel(math.log(4)))
    assert found.item() == pytest.approx(math.log(2) + 0.25 - 0.5, abs=1e-6)


def test_the_likelihood_of_all_levels_adds_up_to_one() -> None:
    levels = (torch.arange(256) / 127.5 - 1).view(256, 1, 1, 1)
    likelihoods = discretized_log_likelihood(levels, torch.full_like(levels, 0.3), torch.full_like(levels, math.log(0.2)))
    assert likelihoods.exp().sum().item() == pytest.approx(1.0, abs=1e-4)


def test_the_likelihood_at_the_middle_by_hand() -> None:
    """The mass of N(0, 0.1²) between −1/255 and 1/255 is erf(1 / (255 · 0.1 · √2))."""
    found = discretized_log_likelihood(pixel(0.0), pixel(0.0), pixel(math.log(0.1)))
    assert found.item() == pytest.approx(math.log(math.erf(1 / (25.5 * math.sqrt(2)))), abs=1e-4)


def test_a_later_term_of_the_bound_by_hand() -> None:
    """x_0 = 0.5, noise 1, t = 1; the network says 0.4 and mixes the variances evenly."""
    a, before, x_0, noise, said = 0.6, 0.9, 0.5, 1.0, 0.4
    beta = 1 - a / before
    x_t = math.sqrt(a) * x_0 + math.sqrt(1 - a) * noise
    guess = (x_t - math.sqrt(1 - a) * said) / math.sqrt(a)
    gap = math.sqrt(before) * beta / (1 - a) * (x_0 - guess)  # between the two means
    smallest = beta * (1 - before) / (1 - a)
    variance = math.sqrt(beta * smallest)
    expected = 0.5 * (math.log(variance / smallest) - 1 + smallest / variance + gap**2 / variance) / math.log(2)
    found = variational_bound(ALPHAS, pixel(said), pixel(0.0), pixel(x_0), pixel(noise), torch.tensor([1]))
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_the_first_term_of_the_bound_by_hand() -> None:
    """At t = 0 the term is −log p(x_0): here the mean is x_0, and the variance is β_1 = 0.1, the largest."""
    variance = 0.1
    likelihood = math.erf(1 / 255 / math.sqrt(2 * variance))
    found = variational_bound(ALPHAS, pixel(1.0), pixel(1.0), pixel(0.0), pixel(1.0), torch.tensor([0]))
    assert found.item() == pytest.approx(-math.log2(likelihood), rel=1e-4)


def test_the_hybrid_adds_a_thousandth_of_the_whole_bound() -> None:
    torch.testing.assert_close(hybrid_loss(torch.tensor([2.0]), torch.tensor([0.5]), steps=1000), torch.tensor([2.5]))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_network_that_learns_its_variance_is_judged_by_both(prediction: str) -> None:
    """Whatever it predicts, the same guess of x_0 gives the same bound."""
    signal, spread = math.sqrt(0.6), math.sqrt(0.4)
    x_0, noise, said = 0.5, 1.0, 0.4
    guess = x_0 + spread / signal * (noise - said)
    output = said if prediction == "epsilon" else (signal * (signal * x_0 + spread * noise) - guess) / spread
    both = torch.cat([pixel(output), pixel(0.0)], dim=1)
    diffusion = Diffusion(ALPHAS, prediction, None)
    timesteps = torch.tensor([1])
    simple = per_sample_loss(diffusion, pixel(output), pixel(x_0), pixel(noise), timesteps)
    bound = variational_bound(ALPHAS, pixel(said), pixel(0.0), pixel(x_0), pixel(noise), timesteps)
    found = per_sample_loss(diffusion, both, pixel(x_0), pixel(noise), timesteps)
    torch.testing.assert_close(found, simple + 0.001 * 3 * bound)


def test_next_token_by_hand() -> None:
    """Two answers of one and two tokens: −log softmax of the right one, averaged in each example by itself."""
    logits = torch.zeros(2, 4, 3)
    logits[0, 1] = torch.tensor([1.0, 2.0, 0.0])  # at 1, predicts the token at 2
    logits[1, 1] = torch.tensor([0.0, 0.0, 3.0])
    targets = torch.tensor([[IGNORED, IGNORED, 1, IGNORED], [IGNORED, IGNORED, 2, 0]])
    first = math.log(math.e + math.e**2 + 1) - 2
    second = (math.log(2 + math.e**3) - 3 + math.log(3)) / 2
    torch.testing.assert_close(next_token_loss(logits, targets), torch.tensor([first, second]))


def test_what_is_given_is_not_learned() -> None:
    logits = torch.randn(1, 4, 5, requires_grad=True)
    next_token_loss(logits, torch.tensor([[IGNORED, IGNORED, 3, IGNORED]])).sum().backward()
    assert logits.grad is not None
    assert logits.grad.abs().amax(dim=2)[0].gt(0).tolist() == [False, True, False, False]
