"""VPT-deep in a DiT (Jia et al., arXiv 2203.12119): tokens in the first blocks, the final layer, and the class table."""

import torch
from diffusers import DiTTransformer2DModel
from torch import nn

from difffit_core.errors import SpecError
from difffit_core.methods.trained_parameters import TrainedParameters, never_trained, whole
from difffit_core.methods.vpt.config import VPTDeepConfig
from difffit_core.methods.vpt.layer import add_tokens

PAPER_BLOCKS = 5  # what the paper's count of 2.81 M comes to, at a token each


def prepare_vpt(model: DiTTransformer2DModel, config: VPTDeepConfig) -> TrainedParameters:
    """Add tokens to the first blocks and mark them, and the final layer with its adaLN.

    Raises SpecError where the model has fewer blocks.
    """
    blocks = model.transformer_blocks
    count = min(PAPER_BLOCKS, len(blocks)) if config.blocks == "auto" else config.blocks
    if count > len(blocks):
        raise SpecError(
            f"vpt-deep asks for tokens in {count} blocks, but the model has transformer_blocks.0 to "
            f"transformer_blocks.{len(blocks) - 1}.",
            code="unknown_module",
            param="method.blocks",
        )
    marks = never_trained(model)
    if config.final_layer:
        marks |= whole(model.proj_out_1, "weight") | whole(model.proj_out_2, "weight")
    like = model.proj_out_2.weight
    bound = (6 / (3 * model.config.patch_size**2 + model.inner_dim)) ** 0.5  # Xavier's, of a patch of three colours
    for block in blocks[:count]:
        tokens = torch.empty(config.tokens, model.inner_dim, device=like.device, dtype=like.dtype)
        marks[add_tokens(block, nn.init.uniform_(tokens, -bound, bound))] = "added"
    return marks
