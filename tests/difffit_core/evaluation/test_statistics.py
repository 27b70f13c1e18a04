"""The statistics against their closed forms, and against torchmetrics and torch-fidelity on the same features."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from difffit_core.errors import DatasetError
from difffit_core.evaluation import statistics
from difffit_core.evaluation.statistics import (
    clip_score,
    frechet_distance,
    kernel_distance,
    precision_recall,
    same_set_floor,
)
from tests.difffit_core.evaluation.networks import features


def gaussian(count: int, width: int, seed: int) -> Tensor:
    return torch.randn(count, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def whitened(rows: Tensor) -> Tensor:
    """Rows whose mean is exactly 0 and whose covariance is exactly the identity."""
    centred = rows - rows.mean(0)
    white: Tensor = torch.linalg.solve_triangular(torch.linalg.cholesky(centred.T.cov()), centred.T, upper=False)
    return white.T


class Passing(nn.Module):
    """Stands where torchmetrics has a network: what it is given are features already."""

    num_features = 6

    def forward(self, rows: Tensor) -> Tensor:
        return rows.flatten(1)


def library(metric: type[Any], a: Tensor, b: Tensor, **options: Any) -> Any:
    """What torchmetrics computes of features `[N, 6]` and `[M, 6]`."""
    made = metric(feature=Passing(), normalize=False, **options).set_dtype(torch.float64)
    made.update(b[..., None, None], real=True)
    made.update(a[..., None, None], real=False)
    return made.compute()


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    return gaussian(120, 6, seed=3) @ gaussian(6, 6, seed=4), gaussian(90, 6, seed=5) @ gaussian(6, 6, seed=6) + 0.3


def test_distance_of_a_set_to_itself_is_zero_with_fewer_rows_than_features() -> None:
    rows = gaussian(30, 100, seed=0)
    assert frechet_distance(rows, rows) == pytest.approx(0, abs=1e-10)
    assert frechet_distance(rows, rows.flip(0)) == pytest.approx(0, abs=1e-10)


def test_distance_equals_the_closed_form_of_known_gaussians() -> None:
    a, b = whitened(gaussian(200, 5, seed=1)), whitened(gaussian(300, 5, seed=2))
    scale, shift = torch.tensor([1.0, 2.0, 3.0, 0.5, 4.0]), torch.tensor([1.0, 0.0, -2.0, 0.0, 0.5])
    expected = shift.square().sum() + (scale - 1).square().sum()  # both covariances are diagonal
    assert frechet_distance(a, b * scale + shift) == pytest.approx(float(expected), rel=1e-9)


def test_distance_equals_the_matrix_formula_where_the_covariances_do_not_commute(pair: tuple[Tensor, Tensor]) -> None:
    a, b = pair
    product = a.T.cov() @ b.T.cov()
    root_trace = torch.linalg.eigvals(product).real.clamp(min=0).sqrt().sum()
    expected = (a.mean(0) - b.mean(0)).square().sum() + a.T.cov().trace() + b.T.cov().trace() - 2 * root_trace
    assert frechet_distance(a, b) == pytest.approx(float(expected), rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(float(expected), rel=1e-9)


def test_distance_is_torchmetrics(pair: tuple[Tensor, Tensor]) -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance  # here: a machine with a GPU may lack it

    assert frechet_distance(*pair) == pytest.approx(float(library(FrechetInceptionDistance, *pair)), rel=1e-3)


def test_kernel_distance_is_torchmetrics(pair: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    from torchmetrics.image.kid import KernelInceptionDistance  # here: a machine with a GPU may lack it

    """Exactly where there is only one subset, and to the spread of the mean where each side draws its own."""
    a, b = pair
    mean, std = library(KernelInceptionDistance, a[:90], b, subsets=2, subset_size=90)
    assert kernel_distance(a[:90], b)[0] == pytest.approx(float(mean), rel=1e-3)
    assert float(std) == pytest.approx(0, abs=1e-6)
    monkeypatch.setattr(statistics, "KID_SUBSET_SIZE", 40)
    mean, std = library(KernelInceptionDistance, a, b, subsets=400, subset_size=40)
    ours, spread = kernel_distance(a, b)
    assert spread == pytest.approx(float(std), rel=0.3)
    assert abs(ours - float(mean)) < 4 * float(std) * (1 / 100 + 1 / 400) ** 0.5


def test_kernel_distance_of_one_distribution_is_about_zero_and_repeats_itself() -> None:
    a, b = gaussian(200, 8, seed=1), gaussian(150, 8, seed=2)
    mean, std = kernel_distance(a, b)
    assert abs(mean) < 0.2
    assert kernel_distance(a, b) == (mean, std)
    assert kernel_distance(a, b + 1)[0] > mean + 10 * std


def test_precision_and_recall_are_torch_fidelitys() -> None:
    """Computed by torch-fidelity 0.4.0 on the same features."""
    precision, recall = precision_recall(features(60, 8, 0.0), features(50, 8, 0.7))
    assert (precision, recall) == pytest.approx((0.38333332538604736, 0.2199999988079071), abs=1e-6)


def test_precision_and_recall_by_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "ROWS", 7)  # matrices of distances in several parts
    generated, real = gaussian(30, 3, seed=1), gaussian(40, 3, seed=2) + 0.5

    def inside(row: Tensor, others: Tensor) -> bool:
        radii = [sorted(float((other - each).norm()) for each in others)[3] for other in others]
        return any(float((row - other).norm()) <= radius for other, radius in zip(others, radii, strict=True))

    expected = tuple(sum(inside(r, of) for r in rows) / len(rows) for rows, of in ((generated, real), (real, generated)))
    assert precision_recall(generated, real) == pytest.approx(expected)


def test_clip_score_is_between_0_and_100() -> None:
    rows = gaussian(5, 4, seed=0)
    assert clip_score(rows, 3 * rows) == pytest.approx(100)
    assert clip_score(rows, -rows) == 0


@pytest.mark.parametrize(("measure", "enough"), [(frechet_distance, 2), (kernel_distance, 2), (precision_recall, 4)])
def test_too_few_pictures_are_refused(measure: Any, enough: int) -> None:
    rows = gaussian(9, 4, seed=0)
    for few, many in ((rows[: enough - 1], rows), (rows, rows[: enough - 1])):
        with pytest.raises(DatasetError) as caught:
            measure(few, many)
        assert caught.value.code == "too_few_images"
        assert f"at least {enough} pictures" in caught.value.message
    measure(rows[:enough], rows)


def test_the_floor_falls_with_the_number_of_pictures_and_repeats_itself() -> None:
    rows = gaussian(400, 8, seed=7)
    floor, spread = same_set_floor(rows)
    assert 0 < spread < floor < 0.3
    assert floor < 0.5 * same_set_floor(rows[:100])[0]
    assert same_set_floor(rows) == (floor, spread)
