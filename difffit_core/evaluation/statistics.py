"""The numbers that compare two sets of features. They depend on how many pictures there are: compare at equal counts only."""

import torch
from torch import Tensor

from difffit_core.errors import DatasetError

KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000  # of each side, as torch-fidelity takes them
NEIGHBOURS = 3  # that make the radius of a manifold's ball (Kynkäänniemi et al. 2019)
ROWS = 1024  # of a matrix of distances that are held at once


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Squared Fréchet distance of the Gaussians fitted to features `a` `[N, D]` and `b` `[M, D]` (Heusel et al. 2017):

    ‖μa − μb‖² + tr(Σa + Σb − 2 (Σa Σb)^½). With the centred features written as Q·R, Σ = RᵀR, and the trace of the root is
    the sum of the singular values of Ra·Rbᵀ. No covariance is squared or inverted, so fewer pictures than features are fine.
    """
    if min(len(a), len(b)) < 2:
        raise _too_few("A Fréchet distance", 2)
    factor_a, factor_b = _covariance_factor(a), _covariance_factor(b)
    means = (a.double().mean(0) - b.double().mean(0)).square().sum()
    root = torch.linalg.svdvals(factor_a @ factor_b.T).sum()
    distance = means + factor_a.square().sum() + factor_b.square().sum() - 2 * root
    return max(0.0, float(distance))  # rounding may leave −1e-12 for equal sets


def _covariance_factor(rows: Tensor) -> Tensor:
    """`R` `[min(N, D), D]` in float64 with RᵀR the covariance of `rows` `[N, D]`."""
    centred = rows.double() - rows.double().mean(0)
    factor: Tensor = torch.linalg.qr(centred / (len(rows) - 1) ** 0.5, mode="r").R
    return factor


def same_set_floor(rows: Tensor, splits: int = 10, seed: int = 0) -> tuple[float, float]:
    """Mean and standard deviation of the distance between two halves of `rows` `[N, D]`, over random halvings.

    Samples drawn from the very distribution of the pictures would score about this much at N/2 against N/2.
    """
    generator = torch.Generator().manual_seed(seed)
    half = len(rows) // 2
    distances: list[float] = []
    for _ in range(splits):
        order = torch.randperm(len(rows), generator=generator)
        distances.append(frechet_distance(rows[order[:half]], rows[order[half : 2 * half]]))
    values = torch.tensor(distances, dtype=torch.float64)
    return float(values.mean()), float(values.std(correction=0))


def kernel_distance(a: Tensor, b: Tensor, seed: int = 0) -> tuple[float, float]:
    """KID (Bińkowski et al. 2018, arXiv 1801.01401): mean and standard deviation over random subsets of `a` and `b`.

    The unbiased squared maximum mean discrepancy of features `[N, D]` and `[M, D]` under the kernel (x·y / D + 1)³. It may be
    a little below 0. Subsets are of 1000 rows, or as many as the smaller set has, and are alike for every call with the seed.
    """
    size = min(len(a), len(b), KID_SUBSET_SIZE)
    if size < 2:
        raise _too_few("A kernel distance", 2)
    generator = torch.Generator().manual_seed(seed)
    values = torch.empty(KID_SUBSETS, dtype=torch.float64)
    for subset in range(KID_SUBSETS):
        rows, others = (torch.randperm(len(x), generator=generator)[:size] for x in (a, b))
        values[subset] = _squared_discrepancy(a[rows].double(), b[others].double())
    return float(values.mean()), float(values.std(correction=0))


def _squared_discrepancy(a: Tensor, b: Tensor) -> Tensor:
    """The unbiased estimate for two sets `[N, D]` of one size."""
    size, width = a.shape
    within_a, within_b, across = ((x @ y.T / width + 1) ** 3 for x, y in ((a, a), (b, b), (a, b)))  # [N, N] each
    within = within_a.sum() - within_a.trace() + within_b.sum() - within_b.trace()
    return within / (size * (size - 1)) - 2 * across.mean()


def precision_recall(generated: Tensor, real: Tensor) -> tuple[float, float]:
    """Improved precision and recall (Kynkäänniemi et al. 2019, arXiv 1904.06991) of features `[N, D]` and `[M, D]`.

    A set's manifold is the union of balls around its rows, each as far as the row's third neighbour. Precision is the share
    of generated rows in the real manifold; recall the share of real rows in the generated one.
    """
    if min(len(generated), len(real)) <= NEIGHBOURS:
        raise _too_few("Precision and recall", NEIGHBOURS + 1)
    return _share_inside(generated, real), _share_inside(real, generated)


def _share_inside(rows: Tensor, others: Tensor) -> float:
    """The share of `rows` `[N, D]` that lie in a ball of `others` `[M, D]`."""
    rows, others = rows.double(), others.double()
    # The nearest is the row itself, at distance 0.
    radii = torch.cat([torch.cdist(part, others).kthvalue(NEIGHBOURS + 1).values for part in others.split(ROWS)])  # [M]
    inside = [(torch.cdist(part, others) <= radii).any(dim=1) for part in rows.split(ROWS)]
    return float(torch.cat(inside).double().mean())


def clip_score(pictures: Tensor, texts: Tensor) -> float:
    """100 times the mean cosine of pictures' and their captions' CLIP features `[N, D]` (Hessel et al. 2021), at least 0."""
    cosines = torch.nn.functional.cosine_similarity(pictures.double(), texts.double())
    return max(0.0, 100 * float(cosines.mean()))


def _too_few(what: str, least: int) -> DatasetError:
    return DatasetError(f"{what} needs at least {least} pictures on either side.", code="too_few_images")
