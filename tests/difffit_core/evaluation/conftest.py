"""Networks that pictures are measured with."""

import pytest

from difffit_core.evaluation.metrics import FeatureWeights
from difffit_core.evaluation.mobilenet import MobileNetV2
from tests.difffit_core.evaluation.networks import write_tiny_clip, write_weights


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> FeatureWeights:
    """Random ones: MobileNetV2's, and a tiny CLIP's."""
    folder = tmp_path_factory.mktemp("weights")
    mobilenet = write_weights(MobileNetV2(), folder / "mobilenet.pth")
    return FeatureWeights(mobilenet=str(mobilenet), clip=str(write_tiny_clip(folder / "clip")))
