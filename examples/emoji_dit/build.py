"""Reproduce the starter model `emoji-dit` from nothing: artwork, autoencoder, transformer, model card."""

import argparse
import json
from itertools import pairwise
from pathlib import Path

from PIL import Image

from difffit_core.base_models import PACKAGED_CATALOG, load_catalog
from difffit_core.evaluation.weights import find_weights
from difffit_core.generators.registry import load_generator
from examples.emoji_dit.autoencoder import load_pictures, train_autoencoder
from examples.emoji_dit.model_card import Figures, write_model_card
from examples.emoji_dit.sources import (
    emoji_list,
    example_emojis,
    fetch_packages,
    fluent_paths,
    noto_path,
    on_white,
    twemoji_paths,
    write_class_folders,
)
from examples.emoji_dit.transformer import MODEL_ID, run_trainer, write_random_base, write_trained_base, write_training_spec

HOLD_OUT_EVERY = 20  # one code point in twenty is held out of the autoencoder's training, in all three artworks


def autoencoder_pictures(modules: Path) -> tuple[list[Image.Image], list[Image.Image]]:
    """Noto, Twemoji and Fluent 3D at 64 px, split by code point into (train, held out), without the demo's pictures."""
    fluent, twemoji = fluent_paths(modules), twemoji_paths()
    shown_in_demo = {emoji.key for emoji in example_emojis(modules)}
    train: list[Image.Image] = []
    held_out: list[Image.Image] = []
    for index, emoji in enumerate(emoji_list(modules)):
        paths = [noto_path(modules, emoji), twemoji.get(emoji.key)]
        paths += [fluent.get(emoji.key)] if emoji.key not in shown_in_demo else []
        side = held_out if index % HOLD_OUT_EVERY == 0 else train
        side += [on_white(path) for path in paths if path is not None]
    return train, held_out


def build_autoencoder_once(work: Path, modules: Path, steps: int) -> None:
    """Train the autoencoder into `work/vae` unless an earlier run finished it."""
    if (work / "autoencoder.json").exists():
        return
    train, held_out = autoencoder_pictures(modules)
    figures = train_autoencoder(load_pictures(train), load_pictures(held_out), steps, work / "vae")
    figures |= {"pictures": len(train), "pictures_held_out": len(held_out)}
    (work / "autoencoder.json").write_text(json.dumps(figures))
    print(json.dumps(figures), flush=True)


def read_figures(work: Path, machine: str) -> Figures:
    """Collect what both trainings wrote down."""
    autoencoder = json.loads((work / "autoencoder.json").read_text())
    events = [json.loads(line) for line in (work / "transformer" / "events.jsonl").read_text().splitlines()]
    by_type = {event["type"]: event for event in events}  # the last of each type
    progress = [event for event in events if event["type"] == "progress"]
    lowest = min((event for event in events if event["type"] == "validation"), key=lambda event: float(event["loss"]))
    # Time between two progress events, unless a restart lies between them.
    gaps = [b["time"] - a["time"] for a, b in pairwise(events) if b["type"] != "started"]
    return Figures(
        autoencoder_pictures=autoencoder["pictures"],
        autoencoder_pictures_held_out=autoencoder["pictures_held_out"],
        autoencoder_steps=int(autoencoder["steps"]),
        autoencoder_seconds=autoencoder["seconds"],
        psnr_train=autoencoder["psnr_train"],
        psnr_held_out=autoencoder["psnr_held_out"],
        transformer_parameters=by_type["started"]["total_parameters"],
        transformer_seconds=sum(gaps),
        train_loss=sum(event["train_loss"] for event in progress[-100:]) / len(progress[-100:]),
        validation_loss=by_type["validation"]["loss"],
        lowest_validation_loss=lowest["loss"],
        lowest_validation_step=lowest["step"],
        machine=machine,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--work", type=Path, default=Path("build/emoji-dit"), help="downloads, states and logs; goes on from here"
    )
    parser.add_argument("--autoencoder-steps", type=int, default=3600)
    parser.add_argument("--transformer-steps", type=int, default=7600)
    parser.add_argument("--output", type=Path, default=PACKAGED_CATALOG.parent / MODEL_ID)
    parser.add_argument("--machine", default="two CPU cores", help="for the model card")
    arguments = parser.parse_args()
    work: Path = arguments.work

    modules = fetch_packages(work / "npm")
    write_class_folders(modules, work / "noto")
    build_autoencoder_once(work, modules, arguments.autoencoder_steps)
    class_names = sorted(folder.name for folder in (work / "noto").iterdir())
    if not (work / "untrained").exists():
        write_random_base(work / "untrained", work / "vae", class_names, seed=0)
    spec = write_training_spec(work / "transformer", work / "untrained", work / "noto", arguments.transformer_steps, seed=0)
    adapter = work / "transformer" / "adapter" / "adapter.safetensors"
    if not adapter.exists():
        run_trainer(work / "transformer")
    write_trained_base(arguments.output, work / "untrained", adapter)
    base = load_catalog()[MODEL_ID].model_copy(update={"path": arguments.output})
    figures = read_figures(work, arguments.machine)
    write_model_card(base, work / "noto", spec, figures, load_generator(base).images, find_weights())


if __name__ == "__main__":
    main()
