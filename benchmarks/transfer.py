"""On twice the resolution, where does a DiT start with each table of positions? `python -m benchmarks.transfer [--json]`.

The base is `emoji-dit`, trained at 64 px; the pictures are the ones of `examples/fluent`, which it has not seen, at 128 px.
Four tables for the grid of 16 x 16 from the base's 8 x 8: `trick`, which encodes patch (i, j) at (i/2, j/2); `bilinear` and
`nearest`, the old table's vectors interpolated; `new`, a table of positions 0 to 15 that has nothing to do with the old.
"""

import argparse
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import DiTTransformer2DModel
from torch import Tensor

from difffit_core.data.latents import encode_pictures
from difffit_core.families.dit.network import load_autoencoder, load_transformer
from difffit_core.families.dit.positions import positions, resize
from difffit_core.process.ddpm import add_noise, load_diffusion, per_sample_loss
from difffit_core.spec.catalog import load_catalog

PICTURES = Path(__file__).parent.parent / "examples" / "fluent"
BATCH = 16


def tables(model: DiTTransformer2DModel) -> dict[str, Tensor]:
    """The table `[1, 4 g², D]` of each kind for twice the grid of `model`, whose own is `[1, g², D]`."""
    old: Tensor = model.pos_embed.pos_embed
    grid, width = model.pos_embed.height, old.shape[-1]
    image = old.view(1, grid, grid, width).permute(0, 3, 1, 2)  # [1, D, g, g]

    def interpolated(mode: str) -> Tensor:
        larger = F.interpolate(image, scale_factor=2, mode=mode)
        return larger.permute(0, 2, 3, 1).reshape(1, -1, width)

    return {
        "trick": positions(width, 2 * grid, known=grid),
        "bilinear": interpolated("bilinear"),
        "nearest": interpolated("nearest"),
        "new": positions(width, 2 * grid, known=2 * grid),
    }


@torch.no_grad()
def start_losses(count: int | None = None, seed: int = 0) -> dict[str, float]:
    """The mean loss by table on `count` pictures (default: all) at twice the base's resolution; the noise is the same."""
    base = load_catalog()["emoji-dit"]
    model = load_transformer(base.path).eval()
    diffusion = load_diffusion(base.path, min_snr_gamma=None)
    size = 2 * int(model.config.sample_size) * base.pixels_per_latent()
    files = sorted(PICTURES.rglob("*.png"))
    files = files[:: max(1, len(files) // count)][:count] if count else files
    vae = load_autoencoder(base.path)
    names = base.class_names()
    latents = encode_pictures(files, vae, (size, size), lambda done, of: None)["mean"][:, 0] * vae.config.scaling_factor
    labels = torch.tensor([names.index(file.parent.name) for file in files])
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(latents.shape, generator=generator)
    stride = diffusion.steps / len(files)
    timesteps = (torch.randperm(len(files), generator=generator) * stride + stride / 2).long()
    kinds = tables(model)
    resize(model, 2 * int(model.config.sample_size))
    found = {}
    for kind, table in kinds.items():
        model.pos_embed.pos_embed = table
        losses = []
        for start in range(0, len(files), BATCH):
            rows = slice(start, start + BATCH)
            noisy = add_noise(diffusion, latents[rows], noise[rows], timesteps[rows])
            output = model(noisy, timestep=timesteps[rows], class_labels=labels[rows]).sample
            losses.append(per_sample_loss(diffusion, output, latents[rows], noise[rows], timesteps[rows]))
        found[kind] = round(float(torch.cat(losses).mean()), 4)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare tables of positions at twice a DiT's resolution.")
    parser.add_argument("--json", action="store_true", help="Print one JSON line")
    arguments = parser.parse_args()
    began = time.monotonic()
    found = {"start_loss": start_losses(), "base": "emoji-dit", "resolution": 128}
    found["seconds"] = round(time.monotonic() - began, 1)
    print(json.dumps(found) if arguments.json else found)


if __name__ == "__main__":
    main()
