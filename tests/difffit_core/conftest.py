"""Tiny bases, and a folder with a small real dataset to train them on."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from difffit_core.base_models import BaseModelEntry
from difffit_core.dataset import index_class_folders
from difffit_core.spec import JobSpec, TrainingSpec, resolve
from tests.tiny_models import write_tiny_base


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> BaseModelEntry:
    return write_tiny_base(tmp_path_factory.mktemp("tiny-base"))


@pytest.fixture(scope="session")
def tiny_learned_base(tmp_path_factory: pytest.TempPathFactory) -> BaseModelEntry:
    """Like the published DiT: predicts noise and a variance."""
    return write_tiny_base(tmp_path_factory.mktemp("tiny-learned"), learned_variance=True, prediction="epsilon")


def write_spec_dir(folder: Path, base: BaseModelEntry, method: str = "difffit", **hyperparameters: object) -> TrainingSpec:
    """A SPEC_DIR with 20 plain-coloured pictures of two classes, one of which the base knows by name."""
    random = np.random.default_rng(0)
    for name, colour in (("star", (250, 200, 30)), ("tree", (20, 120, 40))):
        (folder / "dataset" / name).mkdir(parents=True)
        for number in range(10):
            pixels = np.clip(np.array(colour) + random.integers(-20, 20, (16, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "dataset" / name / f"{number}.png")
    summary = index_class_folders(folder / "dataset")
    body = {"base_model": "tiny", "dataset": "ds_tiny", "method": {"type": method}, "hyperparameters": hyperparameters}
    spec = resolve(JobSpec.model_validate(body), base, summary)
    (folder / "spec.json").write_text(spec.model_dump_json())
    return spec
