"""DiffFit on a DiT (Xie et al., arXiv 2304.06648): train biases, norms, the class table and scale factors γ."""

from typing import Any

from diffusers import DiTTransformer2DModel
from torch import nn

from difffit_core.dit import class_embedder
from difffit_core.methods.difffit.config import DiffFitConfig
from difffit_core.methods.difffit.layer import ScaledLinear

WITH_BIAS = (nn.Linear, nn.Conv2d)
NORMS = (nn.LayerNorm, nn.GroupNorm)


def prepare_difffit(model: DiTTransformer2DModel, config: DiffFitConfig) -> None:
    """Freeze every matrix; train each bias, affine norm and the class table; add γ to the first blocks.

    Parameters are chosen by the type of their module, never by name: in diffusers "norm1" also holds the adaLN
    projection and the embedders, which stay frozen.
    """
    model.requires_grad_(False)
    for module in model.modules():
        if isinstance(module, WITH_BIAS) and module.bias is not None:
            module.bias.requires_grad_(True)
        elif isinstance(module, NORMS):
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(True)
    class_embedder(model).embedding_table.weight.requires_grad_(True)
    blocks = model.transformer_blocks
    scaled = len(blocks) // 2 if config.scale_blocks == "auto" else min(config.scale_blocks, len(blocks))
    for block in blocks[:scaled]:
        add_scale_factors(block)


def add_scale_factors(block: Any) -> None:
    """Give one DiT block (diffusers' BasicTransformerBlock) its 6 D scale factors.

    They are γ_qkv (3 D), γ_proj and γ_1 (D each) and γ_2 (D). γ_1 and γ_2 multiply the attention and MLP branches
    beside their adaLN gates; since a branch ends in a Linear (dropout only masks), each is a factor of its output.
    """
    attention, mlp = block.attn1, block.ff.net
    for name in ("to_q", "to_k", "to_v"):
        setattr(attention, name, ScaledLinear(getattr(attention, name), ["gamma"]))
    attention.to_out[0] = ScaledLinear(attention.to_out[0], ["gamma", "gamma_branch"])
    mlp[-1] = ScaledLinear(mlp[-1], ["gamma_branch"])
