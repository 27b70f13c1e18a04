"""LoRA on the fused query, key and value matrix, made of PEFT's layers on the three that diffusers and transformers keep."""

from collections.abc import Collection, Sequence

from torch import nn

from difffit_core.methods.structure import attentions


def readers_of_one_input(model: nn.Module, chosen: Collection[str]) -> list[list[str]]:
    """The paths among `chosen` of each attention's query, key and value; of a cross attention's key and value only.

    These read the same tokens, so that they may be seen as one matrix.
    """
    groups = []
    for linears in attentions(model):
        attention = model.get_submodule(linears[0].rpartition(".")[0])
        together = linears[1:-1] if getattr(attention, "is_cross_attention", False) else linears[:-1]
        groups.append([path for path in together if path in chosen])
    return groups


def share_down_matrices(model: nn.Module, groups: Sequence[Sequence[str]]) -> None:
    """Let the LoRA layers of a group have one down matrix A `[r, in]`; each keeps its own up matrix B.

    That is LoRA on the fused matrix, since `[B_q; B_k; B_v] A` is one product of rank r for all three.
    """
    for group in groups:
        layers = [model.get_submodule(path) for path in group]
        for layer in layers[1:]:
            layer.lora_A = layers[0].lora_A
