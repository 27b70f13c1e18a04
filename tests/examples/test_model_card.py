"""The model card of a tiny random pipeline, drawn and measured from end to end."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from difffit_core.base_models import BaseModelEntry
from difffit_core.evaluation.mobilenet import MobileNetV2
from difffit_core.generators.registry import load_generator
from difffit_core.methods.full.config import FullConfig
from difffit_core.resolving import resolve
from difffit_core.spec import DatasetSummary, JobSpec
from examples.emoji_dit.model_card import SHEET, Figures, write_model_card
from tests.tiny_models import write_tiny_base

NAMES = sorted(name for column in SHEET for name in column)

FIGURES = Figures(
    autoencoder_pictures=40,
    autoencoder_pictures_held_out=2,
    autoencoder_steps=10,
    autoencoder_seconds=90.0,
    psnr_train=21.0,
    psnr_held_out=20.0,
    transformer_parameters=1_500_000,
    transformer_seconds=7200.0,
    train_loss=0.25,
    validation_loss=0.31,
    lowest_validation_loss=0.29,
    lowest_validation_step=4000,
    machine="two CPU cores",
)


@pytest.fixture
def base(tmp_path: Path) -> BaseModelEntry:
    """A random pipeline at 16 pixels in the layout of the starter model."""
    entry = write_tiny_base(tmp_path / "tiny-dit", class_names=NAMES)
    defaults = entry.defaults.model_copy(update={"min_snr_gamma": 5.0})
    return entry.model_copy(update={"license": "Apache-2.0", "defaults": defaults})


@pytest.fixture
def noto(tmp_path: Path) -> Path:
    """One plain picture for each class."""
    for index, name in enumerate(NAMES):
        (tmp_path / "noto" / name).mkdir(parents=True)
        Image.new("RGB", (16, 16), (10 * index, 255 - 10 * index, 128)).save(tmp_path / "noto" / name / "1f600.png")
    return tmp_path / "noto"


def test_the_card_states_the_distances_counts_and_figures(base: BaseModelEntry, noto: Path, tmp_path: Path) -> None:
    weights = tmp_path / "mobilenet_v2.pth"
    torch.save(MobileNetV2().state_dict(), weights)
    job = JobSpec(base_model=base.id, dataset="noto", method=FullConfig(type="full"), seed=7)
    spec = resolve(job, base, DatasetSummary(sha256="0" * 64, classes=dict.fromkeys(NAMES, 1), holds=["file", "label"]))

    write_model_card(base, noto, spec, FIGURES, load_generator(base, device="cpu").images, weights)

    card = (base.path / "README.md").read_text()
    assert "| 12 pictures | FD-MobileNetV2" in card
    assert "| samples, guidance 3 |" in card
    assert "1.5M trained parameters, width 16" in card
    assert "| 2 min | 120 min |" in card
    assert "v_prediction on the `squaredcos_cap_v2`" in card
    assert "min-SNR-5" in card
    for credit in ("Apache-2.0", "CC-BY 4.0", "MIT", "Google", "Twitter", "Microsoft"):
        assert credit in card
    with Image.open(base.path / "samples.png") as sheet:
        assert sheet.size == (3 * (4 * 16 + 12) + 12, 8 * (16 + 18 + 12) + 12)
