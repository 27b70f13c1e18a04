"""Does gradient descent find the true γ within the bound of DiffFit's Theorem 1? `python -m benchmarks.theorem1 [--json]`.

The theorem's model (arXiv 2304.06648, supplement, section 4): a one-step generator G(s) = f(W s + b) of D features with a
sub-linear f, source data x = G(s) + z with ‖z‖ ≤ η, and target data γ* ⊙ x. Least squares over γ on m ≳ D² log D samples gives
‖γ̂ − γ*‖ < 4√2 · η / √V_min · ‖γ*‖ with high probability, where V_min = min_i Var f(X_i), X_i ~ N(b_i, ‖w_i‖²).
"""

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Noise = Literal["independent", "aligned"]

ETAS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
WIDTHS = (4, 16, 64)
SHARES = (0.25, 1.0, 4.0)  # m as a multiple of D² log D
SEEDS = 3
STEPS = 2000
CHUNK = 8192  # samples at a time


@dataclass(frozen=True)
class Trial:
    """One recovery; `error` and `bound` are relative to ‖γ*‖."""

    width: int
    samples: int
    eta: float
    noise: Noise
    seed: int
    error: float
    bound: float


def recover(width: int, samples: int, eta: float, noise: Noise, seed: int) -> Trial:
    """Draw a generator and a γ*, and look for γ* by gradient descent from γ = 1, as DiffFit begins."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(width, width, generator=generator, dtype=torch.float64) / math.sqrt(width)  # [D, D]
    bias = 0.5 * torch.randn(width, generator=generator, dtype=torch.float64)  # [D]
    true = 1 + 0.5 * torch.randn(width, generator=generator, dtype=torch.float64)
    square, product = _moments(weight, bias, true, samples, eta, noise, generator)
    gamma = torch.ones(width, dtype=torch.float64)
    for _ in range(STEPS):
        gradient = square * gamma - product  # of ½ mean ‖γ ⊙ G(s) − γ* ⊙ x‖²
        gamma = gamma - gradient / square.max()
    error = float((gamma - true).norm() / true.norm())
    return Trial(width, samples, eta, noise, seed, error, 4 * math.sqrt(2) * eta / math.sqrt(_smallest_variance(weight, bias)))


def _moments(
    weight: Tensor, bias: Tensor, true: Tensor, samples: int, eta: float, noise: Noise, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Means `[D]` of G(s)² and of G(s) · γ* · x over the samples: all that the gradient depends on."""
    width = len(bias)
    square, product = torch.zeros_like(bias), torch.zeros_like(bias)
    for start in range(0, samples, CHUNK):
        count = min(CHUNK, samples - start)
        features = F.gelu(torch.randn(count, width, generator=generator, dtype=torch.float64) @ weight.T + bias)  # [n, D]
        if noise == "independent":
            direction = torch.randn(count, width, generator=generator, dtype=torch.float64)
        else:  # all of it where γ* is largest, and always the way that misleads
            direction = torch.zeros_like(features)
            largest = int(true.abs().argmax())
            direction[:, largest] = features[:, largest].sign()
        data = features + eta * F.normalize(direction, dim=1)
        square += features.square().sum(dim=0) / samples
        product += (features * true * data).sum(dim=0) / samples
    return square, product


def _smallest_variance(weight: Tensor, bias: Tensor) -> float:
    """V_min, by Gauss-Hermite quadrature."""
    nodes, weights = (torch.from_numpy(array) for array in np.polynomial.hermite_e.hermegauss(99))
    weights = weights / weights.sum()
    features = F.gelu(bias[:, None] + weight.norm(dim=1)[:, None] * nodes)  # [D, nodes]
    mean = features @ weights
    return float(((features - mean[:, None]).square() @ weights).min())


def trials() -> Iterator[Trial]:
    for width in WIDTHS:
        for share in SHARES:
            for eta in ETAS:
                for noise in get_args(Noise):
                    for seed in range(SEEDS):
                        yield recover(width, math.ceil(share * width**2 * math.log(width)), eta, noise, seed)


def summary(found: list[Trial]) -> dict[str, object]:
    """The ratio of error to bound at its worst, and the powers of η and of m that the error follows."""
    return {
        "trials": len(found),
        "within_bound": sum(trial.error < trial.bound for trial in found),
        "worst_ratio": {
            noise: round(max(trial.error / trial.bound for trial in found if trial.noise == noise), 4)
            for noise in get_args(Noise)
        },
        "slope_of_eta": round(slope([t for t in found if t.noise == "independent"], "eta"), 3),
        "slope_of_m": round(slope([t for t in found if t.noise == "independent"], "samples"), 3),
        "rows": [asdict(trial) for trial in found],
    }


def slope(found: list[Trial], by: Literal["eta", "samples"]) -> float:
    """The power p in error ~ by^p: the mean over the groups of trials that differ in `by` alone."""
    groups: dict[tuple[float, ...], list[Trial]] = {}
    for trial in found:
        groups.setdefault((trial.width, trial.seed, trial.samples if by == "eta" else trial.eta), []).append(trial)
    powers = [
        np.polyfit(np.log([getattr(t, by) for t in group]), np.log([t.error for t in group]), 1)[0] for group in groups.values()
    ]
    return float(np.mean(powers))


def plot(found: list[Trial], path: Path) -> None:
    """Error and bound over η at m = D² log D, and over m at one η; medians over the seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    over_eta, over_m = figure.subplots(1, 2)
    for width, colour in zip(WIDTHS, ("tab:blue", "tab:orange", "tab:green"), strict=True):
        enough = math.ceil(width**2 * math.log(width))
        for axis, name, chosen in (
            (over_eta, "eta", [t for t in found if t.width == width and t.samples == enough]),
            (over_m, "samples", [t for t in found if t.width == width and t.eta == 0.1]),
        ):
            for noise, style in (("independent", "o-"), ("aligned", "s:")):
                of_noise = [t for t in chosen if t.noise == noise]
                axis.loglog(*_medians(of_noise, name, "error"), style, color=colour, label=f"D = {width}, {noise} noise")
            axis.loglog(*_medians(chosen, name, "bound"), "--", color=colour, label=f"D = {width}, bound")
    over_eta.set(xlabel="η, length of the noise", ylabel="‖γ̂ − γ*‖ / ‖γ*‖", title="m = D² log D samples")
    over_m.set(xlabel="m, samples", title="η = 0.1")
    for axis in (over_eta, over_m):
        axis.grid(visible=True, which="major", alpha=0.3)
    handles, labels = over_eta.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _medians(found: list[Trial], x: str, y: str) -> tuple[list[float], list[float]]:
    values: list[float] = sorted({getattr(trial, x) for trial in found})
    return values, [float(np.median([getattr(t, y) for t in found if getattr(t, x) == value])) for value in values]


def main() -> None:
    parser = argparse.ArgumentParser(description="Recover γ* by gradient descent and compare with Theorem 1's bound.")
    parser.add_argument("--json", action="store_true", help="Print one JSON line")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="Draw error and bound")
    arguments = parser.parse_args()
    found = list(trials())
    result = summary(found)
    if arguments.json:
        print(json.dumps(result))
    else:
        for name in ("trials", "within_bound", "worst_ratio", "slope_of_eta", "slope_of_m"):
            print(f"{name:<14} {result[name]}")
    if arguments.plot:
        plot(found, arguments.plot)


if __name__ == "__main__":
    main()
