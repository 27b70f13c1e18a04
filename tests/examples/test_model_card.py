"""The model card of a tiny random pipeline, drawn and measured from end to end."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, DiTPipeline, DiTTransformer2DModel
from PIL import Image

from difffit_core.base_models import BaseModelEntry, TrainingDefaults
from difffit_core.evaluation import WEIGHTS_FILE, WEIGHTS_MODULE, MobileNetV2
from difffit_core.generate import Generator
from difffit_core.spec import DatasetSummary, FullConfig, JobSpec, resolve
from examples.emoji_dit.model_card import SHEET, Figures, fetch_feature_weights, write_model_card

NAMES = sorted(name for column in SHEET for name in column)

DEFAULTS = TrainingDefaults(
    pretraining_learning_rate=1e-3,
    steps=5,
    batch_size=4,
    guidance_scale=3.0,
    sample_steps=2,
    scheduler="dpmsolver++",
    min_snr_gamma=5.0,
)

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
    machine="two CPU cores",
)


@pytest.fixture
def base(tmp_path: Path) -> BaseModelEntry:
    """A random pipeline at 16 pixels in the layout of the starter model."""
    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
        mid_block_add_attention=False,
    )
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=len(NAMES),
    )
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
    folder = tmp_path / "tiny-dit"
    DiTPipeline(transformer, vae, scheduler).save_pretrained(folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["id2label"] = dict(enumerate(NAMES))
    (folder / "model_index.json").write_text(json.dumps(index))
    return BaseModelEntry(
        id="tiny-dit",
        family="dit",
        task="class-conditional",
        description="A tiny random model.",
        license="Apache-2.0",
        path=folder,
        defaults=DEFAULTS,
    )


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
    spec = resolve(job, base, DatasetSummary(sha256="0" * 64, classes=dict.fromkeys(NAMES, 1)))

    write_model_card(base, noto, spec, FIGURES, Generator(base, device="cpu").images, weights)

    card = (base.path / "README.md").read_text()
    assert "| 12 pictures | FD-MobileNetV2" in card
    assert "| samples, guidance 1 |" in card
    assert "| samples, guidance 3 |" in card
    assert "1.5M trained parameters, width 16" in card
    assert "| 2 min | 120 min |" in card
    assert "v_prediction on the `squaredcos_cap_v2`" in card
    assert "min-SNR-5" in card
    for credit in ("Apache-2.0", "CC-BY 4.0", "MIT", "Google", "Twitter", "Microsoft"):
        assert credit in card
    with Image.open(base.path / "samples.png") as sheet:
        assert sheet.size == (3 * (4 * 16 + 12) + 12, 8 * (16 + 18 + 12) + 12)


def test_fetched_weights_are_not_fetched_again(tmp_path: Path) -> None:
    weights = tmp_path / WEIGHTS_MODULE / WEIGHTS_FILE
    weights.parent.mkdir(parents=True)
    weights.touch()
    assert fetch_feature_weights(tmp_path) == weights
