"""A DiT on a larger grid than it was trained on: its table of positions keeps the range that the weights know."""

from diffusers import DiTTransformer2DModel
from diffusers.models.embeddings import get_2d_sincos_pos_embed
from torch import Tensor


def resize(model: DiTTransformer2DModel, sample_size: int) -> None:
    """Let `model` work on latents of `sample_size` x `sample_size`, in place; its weights stay as they are.

    From a grid of g patches a side to one of G, patch (i, j) is encoded at (i·g/G, j·g/G): from 256 to 512 pixels at
    (i/2, j/2), as in the paper's section 4.4. The encodings stay between those of 0 and g, where the weights were trained.
    """
    embed = model.pos_embed
    grid = sample_size // embed.patch_size
    embed.pos_embed = positions(embed.pos_embed.shape[-1], grid, embed.base_size).to(embed.pos_embed)
    embed.height = embed.width = grid
    model.register_to_config(sample_size=sample_size)


def positions(width: int, grid: int, known: int) -> Tensor:
    """Sine-cosine encodings `[1, grid · grid, width]` of a square grid laid over the positions 0 to `known`."""
    table: Tensor = get_2d_sincos_pos_embed(width, grid, base_size=known, output_type="pt")
    return table.float()[None]
