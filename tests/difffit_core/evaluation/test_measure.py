"""One evaluation from pictures to figures: what is counted, what is kept, and what an interruption costs."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from difffit_core.data.dataset import Item, index_class_folders, read_index
from difffit_core.errors import DatasetError, SpecError
from difffit_core.evaluation import measure
from difffit_core.evaluation.extractors import NetworkExtractor
from difffit_core.evaluation.measure import Evaluation, chosen_items
from difffit_core.evaluation.metrics import (
    EvaluationPlan,
    FeatureWeights,
    MetricName,
    Reference,
    check_configured,
    check_metrics,
)

CPU = torch.device("cpu")
REFERENCE = Reference(dataset="5" * 64, split="0.1")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Eight noisy pictures of two classes."""
    random = np.random.default_rng(0)
    for name, count in (("star", 6), ("tree", 2)):
        (tmp_path / "dataset" / name).mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 255, (20, 20, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "dataset" / name / f"{number}.png")
    index_class_folders(tmp_path / "dataset")
    return tmp_path / "dataset"


def plan(*metrics: MetricName, samples: int = 8) -> EvaluationPlan:
    return EvaluationPlan(metrics=list(metrics), samples=samples, seed=0, resolution=16, reference=REFERENCE)


def noise(rows: range) -> list[Image.Image]:
    return [Image.fromarray(np.random.default_rng(row).integers(0, 255, (16, 16, 3)).astype(np.uint8)) for row in rows]


def test_figures_say_all_that_they_depend_on(tmp_path: Path, dataset: Path, weights: FeatureWeights) -> None:
    items = [Item(**{**vars(item), "caption": f"a {item.label}"}) for item in read_index(dataset)]
    evaluation = Evaluation(plan("fd-mobilenet", "clip-score"), weights, CPU)
    evaluation.check(items, "validation_fraction")
    told: list[tuple[int, int]] = []
    found = evaluation.run(noise, items, items, tmp_path, tmp_path / "evaluation", lambda *at: told.append(at))
    distance, fit = found
    assert (distance.metric, distance.samples, distance.reference_images) == ("fd-mobilenet", 8, 8)
    assert distance.value > 0
    assert distance.extractor.startswith("mobilenet ")
    assert (fit.metric, fit.samples, fit.reference_images) == ("clip-score", 8, None)
    assert [(figure.reference, figure.resolution) for figure in found] == [(REFERENCE, 16)] * 2
    assert told == [(8, 8)]
    again = evaluation.run(noise, items, items, tmp_path, tmp_path / "another", lambda *at: None)
    assert again == found


def test_the_very_pictures_of_the_reference_are_at_distance_zero(
    tmp_path: Path, dataset: Path, weights: FeatureWeights
) -> None:
    items = read_index(dataset)

    def copies(rows: range) -> list[Image.Image]:
        return [Image.open(dataset / items[row].file) for row in rows]

    exact = plan("fd-mobilenet").model_copy(update={"resolution": 20})
    found = Evaluation(exact, weights, CPU).run(copies, items, items, tmp_path, tmp_path / "evaluation", lambda *at: None)
    assert found[0].value == pytest.approx(0, abs=1e-6)


def test_an_interrupted_evaluation_draws_only_what_is_missing(
    tmp_path: Path, dataset: Path, weights: FeatureWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "PORTION", 3)
    items = read_index(dataset)
    drawn: list[int] = []

    def draw(rows: range) -> list[Image.Image]:
        drawn.extend(rows)
        if rows.start == 3 and len(drawn) == 6:
            raise KeyboardInterrupt
        return noise(rows)

    evaluation = Evaluation(plan("fd-mobilenet"), weights, CPU)
    with pytest.raises(KeyboardInterrupt):
        evaluation.run(draw, items, items, tmp_path, tmp_path / "one", lambda *at: None)
    found = evaluation.run(draw, items, items, tmp_path, tmp_path / "one", lambda *at: None)
    assert drawn == [0, 1, 2, 3, 4, 5, 3, 4, 5, 6, 7]
    evaluation.run(draw, items, items, tmp_path, tmp_path / "one", lambda *at: None)
    assert len(drawn) == 11
    captioned = [Item(**{**vars(item), "caption": "a cat"}) for item in items]
    other = Evaluation(plan("clip-score"), weights, CPU)  # nobody has seen the pictures by that
    other.run(draw, captioned, captioned, tmp_path, tmp_path / "one", lambda *at: None)
    assert drawn[11:] == list(range(8))
    assert found == evaluation.run(noise, items, items, tmp_path, tmp_path / "another", lambda *at: None)


def test_reference_features_are_computed_once_for_each_resolution(
    tmp_path: Path, dataset: Path, weights: FeatureWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    features = NetworkExtractor.features

    def counted(extractor: NetworkExtractor, pictures: torch.Tensor) -> torch.Tensor:
        seen.append(len(pictures))
        return features(extractor, pictures)

    monkeypatch.setattr(NetworkExtractor, "features", counted)
    items = read_index(dataset)
    first, larger = plan("fd-mobilenet"), plan("fd-mobilenet").model_copy(update={"resolution": 20})
    for number, (asked, more) in enumerate([(first, [8, 8]), (first, [8]), (larger, [8, 8])]):
        seen.clear()
        Evaluation(asked, weights, CPU).run(noise, items, items, tmp_path, tmp_path / f"step-{number}", lambda *at: None)
        assert seen == more
    files = sorted((tmp_path / "references").iterdir())
    assert len(files) == 2
    files[0].write_bytes(files[0].read_bytes()[:-100])  # as a full disk leaves it
    files[1].unlink()
    found = Evaluation(first, weights, CPU).run(noise, items, items, tmp_path, tmp_path / "step-9", lambda *at: None)
    assert found[0].value > 0


def test_samples_have_the_classes_of_the_held_out_pictures(dataset: Path) -> None:
    items = read_index(dataset)[::-1]
    for samples in (4, 8, 40):
        assert Counter(item.label for item in chosen_items(items, samples)) == {"star": samples * 3 // 4, "tree": samples // 4}


def test_too_few_held_out_pictures_are_found_before_anything_is_drawn(dataset: Path, weights: FeatureWeights) -> None:
    items = read_index(dataset)
    with pytest.raises(DatasetError) as caught:
        Evaluation(plan("fd-mobilenet"), weights, CPU).check(items[:1], "validation_fraction")
    assert (caught.value.code, caught.value.param) == ("too_few_images", "validation_fraction")


def test_metrics_that_cannot_be_had_are_refused_by_name() -> None:
    with pytest.raises(SpecError) as caught:
        check_configured(["fd-mobilenet", "kid"], FeatureWeights(), "metrics")
    assert (caught.value.code, caught.value.param) == ("feature_weights_missing", "metrics")
    assert "DIFFFIT_INCEPTION_WEIGHTS" in caught.value.message
    check_configured(["fd-mobilenet", "kid"], FeatureWeights(inception="/some/file"), "metrics")
    with pytest.raises(SpecError) as caught:
        check_metrics(["clip-score"], has_pictures=True, has_captions=False, param="metrics")
    assert caught.value.code == "no_captions"
    with pytest.raises(SpecError, match="makes none"):
        check_metrics(["fid"], has_pictures=False, has_captions=False, param="metrics")
