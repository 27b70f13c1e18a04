"""Reproduce the starter model `emoji-dit` from nothing: artwork, autoencoder, transformer, model card.

Each stage leaves its files under --work and is not repeated; the transformer goes on from its last state at every run.
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

from difffit_core.evaluation.weights import find_weights
from difffit_core.runtime.devices import device_name, pick_device
from difffit_core.sampling.registry import load_generator
from difffit_core.spec.catalog import PACKAGED_CATALOG, load_catalog
from examples.emoji_dit.autoencoder import encode, save_autoencoder, train_autoencoder
from examples.emoji_dit.drawings import Drawing, load_drawings, read_drawings, save_drawings
from examples.emoji_dit.model_card import Figures, write_model_card
from examples.emoji_dit.sources import fetch_packages
from examples.emoji_dit.transformer import MODEL_ID, Latents, Training, label_drawings, split_drawings, write_base
from examples.emoji_dit.variants import Variants

STAGES = ("drawings", "autoencoder", "transformer", "base", "card")
AUTOENCODER_SHARE = 0.3  # of the time limit
LOSSES_AVERAGED = 20  # lines of the log
HELD_OUT_PICTURES = 256  # that the autoencoder is measured on


@dataclass(frozen=True)
class Scale:
    """What fits a kind of device, or a quick try: variants of each drawing, and pictures a step."""

    variants: int
    autoencoder_batch: int
    transformer_batch: int


SCALES = {"cuda": Scale(16, 128, 1024), "cpu": Scale(4, 16, 64), "small": Scale(1, 2, 8)}


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
        scale = SCALES["small" if arguments.small else device.type]
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
        write_model_card(base, drawings, read_figures(work), load_generator(base).images, find_weights())


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--work", type=Path, default=Path("build/emoji-dit"), help="downloads, states and logs; goes on from here"
    )
    parser.add_argument("--minutes", type=float, default=180, help="for training, in this run")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--small", action="store_true", help="a quick try: no variants and tiny batches")
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
    loaded: dict[int, Tensor] = {}  # by how many variants were rendered; the newest alone

    def pictures() -> Tensor:
        ready = variants.ready() or [0]  # the first is waited for
        if len(ready) not in loaded:
            loaded.clear()
            loaded[len(ready)] = torch.cat([variants.pictures(number)[train] for number in ready]).to(device)
        return loaded[len(ready)]

    measured = held_out[torch.randperm(len(held_out), generator=torch.Generator().manual_seed(0))[:HELD_OUT_PICTURES]]
    pictures_held_out = variants.pictures(0)[measured]
    model, figures = train_autoencoder(pictures, pictures_held_out, scale.autoencoder_batch, seconds, device)
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
    latents = torch.stack(
        [encode(model, variants.pictures(n)) * model.config.scaling_factor for n in range(len(variants.features))]
    )
    print(
        json.dumps({"encoded": latents.shape[0] * latents.shape[1], "seconds": round(time.monotonic() - began, 1)}), flush=True
    )
    subgroups, sets, things = label_drawings(drawings)
    train, held_out = split_drawings(drawings)
    columns = (torch.stack(variants.features), subgroups, sets, things, train, held_out)
    return Latents(latents, *(column.to(device) for column in columns))


def build_transformer(work: Path, latents: Latents, scale: Scale, ends: float, device: torch.device) -> None:
    """Train until the time is up; leave the averaged weights in `work/weights.safetensors` and a log beside them."""
    training = Training(latents, scale.transformer_batch, work / "transformer", device)
    run = {"began": time.time(), "batch": scale.transformer_batch, "machine": device_name(device)}
    with (work / "transformer.jsonl").open("a", buffering=1) as log:
        for line in training.train(ends - time.monotonic()):
            print(json.dumps(line), flush=True)
            log.write(json.dumps(line | run) + "\n")
    save_file(training.averaged_weights(), work / "weights.safetensors")


def read_figures(work: Path) -> Figures:
    """Collect what both trainings wrote down."""
    autoencoder = json.loads((work / "autoencoder.json").read_text())
    lines = [json.loads(line) for line in (work / "transformer.jsonl").read_text().splitlines()]
    held_out = [line for line in lines if "held_out_loss" in line]
    losses = [line["loss"] for line in lines if "loss" in line][-LOSSES_AVERAGED:]
    lowest = min(held_out, key=lambda line: float(line["held_out_loss"]))
    seconds = {line["began"]: line["seconds"] for line in lines}  # the last of each run
    return Figures(
        autoencoder_pictures=autoencoder["pictures"],
        autoencoder_pictures_held_out=autoencoder["pictures_held_out"],
        autoencoder_steps=int(autoencoder["steps"]),
        autoencoder_seconds=autoencoder["seconds"],
        psnr_train=autoencoder["psnr_train"],
        psnr_held_out=autoencoder["psnr_held_out"],
        transformer_steps=lines[-1]["step"],
        transformer_seconds=sum(seconds.values()),
        train_loss=sum(losses) / len(losses),
        held_out_loss=held_out[-1]["held_out_loss"],
        lowest_held_out_loss=lowest["held_out_loss"],
        lowest_held_out_step=lowest["step"],
        batch=lines[-1]["batch"],
        machine=lines[-1]["machine"],
    )


if __name__ == "__main__":
    main()
