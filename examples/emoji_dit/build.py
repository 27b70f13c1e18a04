"""Reproduce the starter model `emoji-dit` from nothing: artwork, autoencoder, transformer, model card.

Each stage leaves its files under --work and is not repeated; the transformer goes on from its last state as often as this is run.
Where there is a GPU it is used. A machine without a network needs `drawings.json.xz` in --work, which `--only drawings` makes.
"""

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor

from difffit_core.base_models import PACKAGED_CATALOG, load_catalog
from difffit_core.devices import device_name, pick_device
from difffit_core.evaluation.weights import find_weights
from difffit_core.generators.registry import load_generator
from examples.emoji_dit.autoencoder import encode, save_autoencoder, train_autoencoder
from examples.emoji_dit.drawings import Drawing, load_drawings, read_drawings, save_drawings
from examples.emoji_dit.model_card import write_model_card
from examples.emoji_dit.sources import fetch_packages
from examples.emoji_dit.transformer import MODEL_ID, Latents, Training, label_drawings, split_drawings, write_base
from examples.emoji_dit.variants import Variants

STAGES = ("drawings", "autoencoder", "transformer", "base", "card")
AUTOENCODER_SHARE = 0.3  # of the time limit
HELD_OUT_PICTURES = 256  # that the autoencoder is measured on


@dataclass(frozen=True)
class Scale:
    """What fits a kind of device: variants of each drawing, and pictures a step."""

    variants: int
    autoencoder_batch: int
    transformer_batch: int


SCALES = {"cuda": Scale(16, 128, 1024), "cpu": Scale(4, 16, 64)}


def main() -> None:
    arguments = parse_arguments()
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    device = pick_device(arguments.device)
    stages = [arguments.only] if arguments.only else list(STAGES)
    ends = time.monotonic() + 60 * arguments.minutes
    if "drawings" in stages and not (work / "drawings.json.xz").exists():
        save_drawings(read_drawings(fetch_packages(work / "npm")), work / "drawings.json.xz")
    drawings = load_drawings(work / "drawings.json.xz")
    if "autoencoder" in stages or "transformer" in stages:
        scale = SCALES[device.type]
        with rendering(drawings, scale, work) as variants:
            if "autoencoder" in stages and not (work / "autoencoder.json").exists():
                build_autoencoder(work, drawings, variants, scale, 60 * arguments.minutes * AUTOENCODER_SHARE, device)
            if "transformer" in stages:
                latents = encode_variants(work, drawings, variants, device)
        if "transformer" in stages:
            build_transformer(work, latents, scale, ends, device)
    if "base" in stages:
        write_base(arguments.output, load_file(work / "weights.safetensors"), drawings, read_autoencoder(work))
    if "card" in stages:
        base = load_catalog()[MODEL_ID].model_copy(update={"path": arguments.output})
        write_model_card(base, drawings, work, load_generator(base).images, find_weights())


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/emoji-dit"), help="downloads, states and logs; goes on from here")
    parser.add_argument("--minutes", type=float, default=180, help="for training, in this run")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--only", choices=STAGES, help="one stage instead of all")
    parser.add_argument("--output", type=Path, default=PACKAGED_CATALOG.parent / MODEL_ID)
    return parser.parse_args()


@contextmanager
def rendering(drawings: list[Drawing], scale: Scale, work: Path) -> Iterator[Variants]:
    """The variants, whose rendering goes on in other processes while this is open."""
    variants = Variants(drawings, scale.variants, work / "variants")
    try:
        yield variants
    finally:
        variants.close()


def build_autoencoder(
    work: Path, drawings: list[Drawing], variants: Variants, scale: Scale, seconds: float, device: torch.device
) -> None:
    """Train it into `work/vae`, on whatever variants are rendered by then."""
    train, held_out = split_drawings(drawings)
    loaded: dict[int, Tensor] = {0: variants.pictures(0)}
    storage = device if device.type == "cuda" else torch.device("cpu")

    def pictures() -> Tensor:
        news = [number for number in variants.ready() if number not in loaded]
        if news or "all" not in cache:
            loaded.update({number: variants.pictures(number) for number in news})
            cache["all"] = torch.cat([loaded[number][train] for number in sorted(loaded)]).to(storage)
        return cache["all"]

    cache: dict[str, Tensor] = {}
    pictures_held_out = loaded[0][held_out]
    order = torch.randperm(len(held_out), generator=torch.Generator().manual_seed(0))[:HELD_OUT_PICTURES]
    model, figures = train_autoencoder(pictures, pictures_held_out[order], scale.autoencoder_batch, seconds, device)
    save_autoencoder(model, work / "vae")
    figures |= {"pictures": len(train), "pictures_held_out": len(held_out)}
    (work / "autoencoder.json").write_text(json.dumps(figures | {"machine": device_name(device)}))
    print(json.dumps(figures), flush=True)


def read_autoencoder(work: Path) -> AutoencoderKL:
    """The finished autoencoder in fp32, as the weights that were rounded to half precision have it."""
    return AutoencoderKL.from_pretrained(work / "vae", torch_dtype=torch.float32).requires_grad_(False).eval()


def encode_variants(work: Path, drawings: list[Drawing], variants: Variants, device: torch.device) -> Latents:
    """Everything the transformer is trained on, on the device."""
    model = read_autoencoder(work).to(device, memory_format=torch.channels_last)
    began = time.monotonic()
    latents = torch.stack([encode(model, variants.pictures(n)) * model.config.scaling_factor for n in range(len(variants.features))])
    print(json.dumps({"encoded": latents.shape[0] * latents.shape[1], "seconds": round(time.monotonic() - began, 1)}), flush=True)
    subgroups, sets, things = label_drawings(drawings)
    train, held_out = split_drawings(drawings)
    columns = (torch.stack(variants.features), subgroups, sets, things, train, held_out)
    return Latents(latents, *(column.to(device) for column in columns))


def build_transformer(work: Path, latents: Latents, scale: Scale, ends: float, device: torch.device) -> None:
    """Train until the time is up; leave the averaged weights in `work/weights.safetensors` and a log beside them."""
    training = Training(latents, scale.transformer_batch, work / "transformer", device)
    log = work / "transformer.jsonl"
    for line in training.train(ends - time.monotonic()):
        entry = json.dumps(line)
        print(entry, flush=True)
        with log.open("a") as file:
            file.write(json.dumps(line | {"batch": scale.transformer_batch, "machine": device_name(device)}) + "\n")
    save_file(training.averaged_weights(), work / "weights.safetensors")


if __name__ == "__main__":
    main()
