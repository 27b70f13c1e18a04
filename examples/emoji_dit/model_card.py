"""Write the starter model's card: a sheet of samples, its FD-MobileNetV2 beside the same-set floor, data, recipe and limits."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load_file
from torch import Tensor

from difffit_core.base_models import BaseModelEntry
from difffit_core.dit import load_autoencoder
from difffit_core.evaluation.extractors import load_network
from difffit_core.evaluation.mobilenet import MobileNetV2
from difffit_core.evaluation.statistics import frechet_distance, same_set_floor
from difffit_core.evaluation.weights import WEIGHTS_PACKAGE
from difffit_core.generation_spec import GenerationSpec
from difffit_core.sampling import decode
from difffit_core.spec import TrainingSpec
from examples.emoji_dit.autoencoder import load_pictures

Sampler = Callable[[GenerationSpec], list[Image.Image]]

TEMPLATE = Path(__file__).with_suffix(".md")
BATCH = 64
SAMPLES_PER_CLASS = 4
CAPTION, GAP = 18, 12  # pixels

# The columns of the sample sheet: faces and people; nature and food; places, activities, objects, symbols and flags.
SHEET = (
    ("face-smiling", "face-hat", "cat-face", "heart", "hand-fingers-open", "person-role", "person-sport", "family"),
    ("animal-mammal", "animal-bird", "animal-bug", "animal-marine", "plant-flower", "food-fruit", "food-sweet", "drink"),
    ("place-building", "transport-ground", "sky-weather", "time", "sport", "clothing", "zodiac", "country-flag"),
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
    transformer_parameters: int
    transformer_seconds: float
    train_loss: float
    validation_loss: float
    lowest_validation_loss: float
    lowest_validation_step: int
    machine: str  # in words, such as "two CPU cores"


def write_model_card(
    base: BaseModelEntry, noto: Path, spec: TrainingSpec, figures: Figures, sample: Sampler, weights: Path
) -> None:
    """Write `README.md` and `samples.png` into the folder of the finished pipeline `base`.

    `noto` is the folder of class folders it was trained on, `spec` the job that trained its transformer, `weights` a file of
    MobileNetV2's weights.
    """
    names = base.class_names()
    shown = [names.index(name) for column in SHEET for name in column for _ in range(SAMPLES_PER_CLASS)]
    draw_sheet(generate(base, shown, base.defaults.guidance_scale, sample)).save(base.path / "samples.png", optimize=True)

    labels, pictures = labelled_pictures(noto, names)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    half = len(labels) // 2
    first, second = order[:half], order[half : 2 * half]
    extractor = load_network(MobileNetV2(), weights)
    real = extractor.features(pictures)
    others = {
        "Noto, the second half: **the floor**": real[second],
        "Noto, the second half through the autoencoder": extractor.features(reconstruct(base, pictures[second])),
    }
    guidance = base.defaults.guidance_scale
    samples = load_pictures(generate(base, [labels[i] for i in second.tolist()], guidance, sample))
    others[f"samples, guidance {guidance:g}"] = extractor.features(samples)
    distances = {name: frechet_distance(real[first], other) for name, other in others.items()}
    (base.path / "README.md").write_text(card_text(base, spec, figures, distances, same_set_floor(real), half))


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


def labelled_pictures(noto: Path, names: list[str]) -> tuple[list[int], Tensor]:
    """Class indices and uint8 pictures `[N, 3, H, W]` of a folder of class folders."""
    paths = [(index, path) for index, name in enumerate(names) for path in sorted((noto / name).glob("*.png"))]
    return [index for index, _ in paths], load_pictures([Image.open(path).convert("RGB") for _, path in paths])


@torch.inference_mode()
def reconstruct(base: BaseModelEntry, pictures: Tensor) -> Tensor:
    """Uint8 pictures `[N, 3, H, W]` to latents and back."""
    vae = load_autoencoder(base.path)
    images: list[Image.Image] = []
    for start in range(0, len(pictures), BATCH):
        latents = vae.encode(pictures[start : start + BATCH].float() / 127.5 - 1.0).latent_dist.mode()
        images += decode(vae, latents * vae.config.scaling_factor)
    return load_pictures(images)


def card_text(
    base: BaseModelEntry,
    spec: TrainingSpec,
    figures: Figures,
    distances: dict[str, float],
    floor: tuple[float, float],
    count: int,
) -> str:
    """Fill in `model_card.md`; what a file of the pipeline or of the job says is read from there."""
    transformer = json.loads((base.path / "transformer" / "config.json").read_text())
    autoencoder = json.loads((base.path / "vae" / "config.json").read_text())
    scheduler = json.loads((base.path / "scheduler" / "scheduler_config.json").read_text())
    chosen, gamma = spec.hyperparameters, spec.defaults.min_snr_gamma
    return TEMPLATE.read_text().format(
        license=base.license.lower(),
        license_name=base.license,
        id=base.id,
        size=base.image_size(),
        classes=len(base.class_names()),
        megabytes=f"{base.size_bytes() / 1e6:.1f}",
        shown_classes=sum(len(column) for column in SHEET),
        samples_per_class=SAMPLES_PER_CLASS,
        sampler=base.defaults.scheduler,
        sample_steps=base.defaults.sample_steps,
        guidance=f"{base.defaults.guidance_scale:g}",
        noto_pictures=spec.dataset.examples,
        autoencoder_pictures=figures.autoencoder_pictures,
        autoencoder_held_out=figures.autoencoder_pictures_held_out,
        autoencoder_millions=f"{stored_parameters(base.path / 'vae') / 1e6:.1f}",
        autoencoder_widths=", ".join(str(width) for width in autoencoder["block_out_channels"]),
        latent_channels=autoencoder["latent_channels"],
        latent_size=transformer["sample_size"],
        transformer_millions=f"{figures.transformer_parameters / 1e6:.1f}",
        width=transformer["num_attention_heads"] * transformer["attention_head_dim"],
        blocks=transformer["num_layers"],
        heads=transformer["num_attention_heads"],
        patch=transformer["patch_size"],
        machine=figures.machine,
        autoencoder_steps=figures.autoencoder_steps,
        steps=chosen.steps,
        autoencoder_minutes=f"{figures.autoencoder_seconds / 60:.0f}",
        transformer_minutes=f"{figures.transformer_seconds / 60:.0f}",
        psnr_held_out=f"{figures.psnr_held_out:.1f}",
        psnr_train=f"{figures.psnr_train:.1f}",
        train_loss=f"{figures.train_loss:.4f}",
        validation_loss=f"{figures.validation_loss:.4f}",
        lowest_validation_loss=f"{figures.lowest_validation_loss:.4f}",
        lowest_validation_step=figures.lowest_validation_step,
        method=spec.method.type,
        prediction=scheduler["prediction_type"],
        schedule=scheduler["beta_schedule"],
        weighting=f"min-SNR-{gamma:g} weighting" if gamma else "every timestep weighted alike",
        learning_rate=f"{chosen.learning_rate:g}",
        warmup_steps=chosen.warmup_steps,
        lr_schedule=chosen.lr_schedule,
        weight_decay=f"{chosen.weight_decay:g}",
        batch_size=chosen.batch_size,
        ema_decay=f"{chosen.ema_decay:g}",
        label_dropout=f"{chosen.label_dropout:g}",
        validation_percent=f"{chosen.validation_fraction:.0%}",
        seed=spec.seed,
        weights_package=WEIGHTS_PACKAGE,
        count=count,
        distances="\n".join(f"| {name} | {distance:.1f} |" for name, distance in distances.items()),
        floor_mean=f"{floor[0]:.1f}",
        floor_spread=f"{floor[1]:.1f}",
    )


def stored_parameters(folder: Path) -> int:
    return sum(tensor.numel() for tensor in load_file(folder / "diffusion_pytorch_model.safetensors").values())
