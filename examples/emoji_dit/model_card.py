"""Write the starter model's card: a sheet of samples, its FD-MobileNetV2 beside the same-set floor, data, recipe and limits."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load_file
from torch import Tensor

from difffit_core.evaluation.extractors import load_network
from difffit_core.evaluation.mobilenet import MobileNetV2
from difffit_core.evaluation.statistics import frechet_distance
from difffit_core.evaluation.weights import WEIGHTS_PACKAGE
from difffit_core.families.dit.network import load_autoencoder
from difffit_core.sampling.denoising import decode
from difffit_core.spec.catalog import BaseModelEntry
from difffit_core.spec.generation import GenerationSpec
from examples.emoji_dit.autoencoder import load_pictures
from examples.emoji_dit.drawings import SETS, Drawing
from examples.emoji_dit.transformer import MIN_SNR_GAMMA, UNTOLD, hyperparameters, split_drawings
from examples.emoji_dit.variants import FEATURES, render

Sampler = Callable[[GenerationSpec], list[Image.Image]]

TEMPLATE = Path(__file__).with_suffix(".md")
BATCH = 64
SAMPLES_PER_CLASS = 4
MOST_MEASURED = 1000  # drawings that samples are compared with
COLUMNS = ("floor", "autoencoder", "samples")
CAPTION, GAP = 18, 12  # pixels

# The columns of the sample sheet: subgroups; the same of single sets; single things.
SHEET = (
    (
        "face-smiling",
        "person-role",
        "animal-mammal",
        "animal-bird",
        "food-fruit",
        "food-sweet",
        "transport-ground",
        "plant-flower",
    ),
    (
        "face-smiling-blob",
        "person-role-noto",
        "animal-mammal-twemoji",
        "animal-bird-streamline",
        "food-fruit-firefox",
        "food-sweet-emojione",
        "transport-ground-noto",
        "plant-flower-twemoji",
    ),
    ("dog-face", "lion", "penguin", "octopus", "red-apple", "birthday-cake", "hamburger", "cherries"),
)


class Figures(BaseModel):
    """What the two trainings measured of themselves. Seconds are of training alone; PSNR is in dB."""

    model_config = ConfigDict(extra="forbid")

    autoencoder_pictures: int
    autoencoder_pictures_held_out: int
    autoencoder_steps: int
    autoencoder_seconds: float
    psnr_train: float
    psnr_held_out: float
    transformer_steps: int
    transformer_seconds: float
    train_loss: float
    held_out_loss: float
    lowest_held_out_loss: float
    lowest_held_out_step: int
    batch: int
    machine: str  # in words, such as "NVIDIA H200"


def write_model_card(base: BaseModelEntry, drawings: list[Drawing], figures: Figures, sample: Sampler, weights: Path) -> None:
    """Write `README.md` and `samples.png` into the folder of the finished pipeline `base`.

    `drawings` are all that there are, held out or not; `weights` is a file of MobileNetV2's weights.
    """
    names = base.class_names()
    guidance = base.defaults.guidance_scale
    shown = [names.index(name) for column in SHEET for name in column for _ in range(SAMPLES_PER_CLASS)]
    draw_sheet(generate(base, shown, guidance, sample)).save(base.path / "samples.png", optimize=True)

    extractor = load_network(MobileNetV2(), weights)
    train, held_out = split_drawings(drawings)
    order = train[torch.randperm(len(train), generator=torch.Generator().manual_seed(0))]
    half = min(MOST_MEASURED, len(order) // 2)
    distances = {}
    for name, these, others in (
        ("what it was trained on", order[:half], order[half : 2 * half]),
        ("what was held out", held_out, order[: len(held_out)]),
    ):
        pictures = drawn(drawings, these)
        real = extractor.features(pictures)
        labels = [names.index(f"{drawings[i].subgroup}-{drawings[i].set}") for i in these.tolist()]
        samples = load_pictures(generate(base, labels, guidance, sample))
        distances[name] = {
            "count": len(these),
            "floor": frechet_distance(real, extractor.features(drawn(drawings, others))),
            "autoencoder": frechet_distance(real, extractor.features(reconstruct(base, pictures))),
            "samples": frechet_distance(real, extractor.features(samples)),
        }
    (base.path / "README.md").write_text(card_text(base, drawings, figures, distances))


def drawn(drawings: list[Drawing], indices: Tensor) -> Tensor:
    """The drawings of those indices as they are, uint8 `[N, 3, 64, 64]`."""
    unchanged = [0.0] * len(FEATURES)
    return torch.from_numpy(np.stack([render(drawings[i], unchanged) for i in indices.tolist()])).permute(0, 3, 1, 2)


def generate(base: BaseModelEntry, labels: list[int], guidance: float, sample: Sampler) -> list[Image.Image]:
    """One picture for each label; picture i starts from the noise of seed i."""
    images: list[Image.Image] = []
    for start in range(0, len(labels), BATCH):
        images += sample(
            GenerationSpec(
                labels=labels[start : start + BATCH],
                steps=base.defaults.sample_steps,
                guidance_scale=guidance,
                seed=start,
                scheduler=base.defaults.scheduler,
            )
        )
    return images


def draw_sheet(images: list[Image.Image]) -> Image.Image:
    """Lay the samples of `SHEET`, column after column, under the names of their classes."""
    width, height = images[0].size
    cell = (SAMPLES_PER_CLASS * width + GAP, height + CAPTION + GAP)
    sheet = Image.new("RGB", (len(SHEET) * cell[0] + GAP, len(SHEET[0]) * cell[1] + GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    cells = [(x, y, name) for x, column in enumerate(SHEET) for y, name in enumerate(column)]
    for index, (x, y, name) in enumerate(cells):
        left, top = GAP + x * cell[0], GAP + y * cell[1]
        draw.text((left, top), name, fill="black", font=font)
        for i in range(SAMPLES_PER_CLASS):
            sheet.paste(images[index * SAMPLES_PER_CLASS + i], (left + i * width, top + CAPTION))
    return sheet


@torch.inference_mode()
def reconstruct(base: BaseModelEntry, pictures: Tensor) -> Tensor:
    """Uint8 pictures `[N, 3, H, W]` to latents and back."""
    vae = load_autoencoder(base.path)
    images: list[Image.Image] = []
    for start in range(0, len(pictures), BATCH):
        latents = vae.encode(pictures[start : start + BATCH].float() / 127.5 - 1.0).latent_dist.mode()
        images += decode(vae, latents * vae.config.scaling_factor)
    return load_pictures(images)


def card_text(base: BaseModelEntry, drawings: list[Drawing], figures: Figures, distances: dict[str, dict[str, float]]) -> str:
    """Fill in `model_card.md`; what a file of the pipeline says is read from there."""
    transformer = json.loads((base.path / "transformer" / "config.json").read_text())
    autoencoder = json.loads((base.path / "vae" / "config.json").read_text())
    scheduler = json.loads((base.path / "scheduler" / "scheduler_config.json").read_text())
    chosen = hyperparameters(figures.batch)
    of_set = Counter(drawing.set for drawing in drawings)
    rows = [
        f"| {name} | {d['count']} | {' | '.join(f'{d[column]:.1f}' for column in COLUMNS)} |" for name, d in distances.items()
    ]
    return TEMPLATE.read_text().format(
        license=base.license.lower(),
        id=base.id,
        size=base.image_size(),
        classes=len(base.class_names()),
        subgroups=len({drawing.subgroup for drawing in drawings}),
        megabytes=f"{base.size_bytes() / 1e6:.1f}",
        shown_classes=sum(len(column) for column in SHEET),
        samples_per_class=SAMPLES_PER_CLASS,
        sampler=base.defaults.scheduler,
        sample_steps=base.defaults.sample_steps,
        guidance=f"{base.defaults.guidance_scale:g}",
        drawings=len(drawings),
        autoencoder_held_out=figures.autoencoder_pictures_held_out,
        autoencoder_millions=f"{stored_parameters(base.path / 'vae') / 1e6:.1f}",
        autoencoder_widths=", ".join(str(width) for width in autoencoder["block_out_channels"]),
        latent_channels=autoencoder["latent_channels"],
        latent_size=transformer["sample_size"],
        width=transformer["num_attention_heads"] * transformer["attention_head_dim"],
        blocks=transformer["num_layers"],
        heads=transformer["num_attention_heads"],
        patch=transformer["patch_size"],
        machine=figures.machine,
        autoencoder_steps=figures.autoencoder_steps,
        transformer_steps=figures.transformer_steps,
        autoencoder_minutes=f"{figures.autoencoder_seconds / 60:.1f}",
        transformer_minutes=f"{figures.transformer_seconds / 60:.1f}",
        psnr_held_out=f"{figures.psnr_held_out:.1f}",
        psnr_train=f"{figures.psnr_train:.1f}",
        train_loss=f"{figures.train_loss:.4f}",
        held_out_loss=f"{figures.held_out_loss:.4f}",
        lowest_held_out_loss=f"{figures.lowest_held_out_loss:.4f}",
        lowest_held_out_step=figures.lowest_held_out_step,
        prediction=scheduler["prediction_type"],
        schedule=scheduler["beta_schedule"],
        gamma=f"{MIN_SNR_GAMMA:g}",
        learning_rate=f"{chosen.learning_rate:g}",
        warmup_steps=chosen.warmup_steps,
        weight_decay=f"{chosen.weight_decay:g}",
        batch_size=figures.batch,
        ema_decay=f"{chosen.ema_decay:g}",
        untold=f"{UNTOLD:.0%}",
        weights_package=WEIGHTS_PACKAGE,
        distances="\n".join(rows),
        **{f"{name}_drawings": of_set[name] for name in SETS},
    )


def stored_parameters(folder: Path) -> int:
    return sum(tensor.numel() for tensor in load_file(folder / "diffusion_pytorch_model.safetensors").values())
