"""Theorem 1 in small: γ* is found, the error is within the bound, and it follows the noise."""

from pathlib import Path

import pytest

from benchmarks.theorem1 import Noise, plot, recover, slope, summary, trials

SAMPLES = 512  # D² log D is 355 at D = 12


def test_without_noise_the_true_factors_are_found() -> None:
    assert recover(12, SAMPLES, 0.0, "independent", seed=0).error < 1e-9


@pytest.mark.parametrize("noise", ["independent", "aligned"])
def test_the_error_is_within_the_bound_and_proportional_to_the_noise(noise: Noise) -> None:
    found = [recover(12, SAMPLES, eta, noise, seed) for eta in (0.01, 0.1, 1.0) for seed in range(3)]
    assert all(trial.error < trial.bound for trial in found)
    assert slope(found, "eta") == pytest.approx(1.0, abs=0.01)


def test_more_samples_average_independent_noise_out_but_not_what_misleads() -> None:
    counts = (200, 1600, 12800)
    independent = [recover(12, count, 0.1, "independent", seed) for count in counts for seed in range(4)]
    aligned = [recover(12, count, 0.1, "aligned", seed) for count in counts for seed in range(4)]
    assert slope(independent, "samples") == pytest.approx(-0.5, abs=0.2)
    assert slope(aligned, "samples") == pytest.approx(0.0, abs=0.05)


def test_the_plot_and_the_summary_speak_of_the_same_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.theorem1.ETAS", (0.1, 1.0))
    monkeypatch.setattr("benchmarks.theorem1.SEEDS", 1)
    monkeypatch.setattr("benchmarks.theorem1.WIDTHS", (2, 3, 4))
    found = list(trials())
    result = summary(found)
    assert result["within_bound"] == result["trials"] == len(found) == 36
    plot(found, tmp_path / "plots" / "theorem1.png")
    assert (tmp_path / "plots" / "theorem1.png").read_bytes().startswith(b"\x89PNG")
