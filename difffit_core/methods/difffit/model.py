"""DiffFit in any model (Xie et al., arXiv 2304.06648): train biases, norms, the class table and scale factors γ."""

from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
from torch import nn

from difffit_core.errors import SpecError
from difffit_core.families.registry import family_of
from difffit_core.methods.difffit.config import DiffFitConfig
from difffit_core.methods.difffit.layer import with_scales
from difffit_core.methods.difffit.policies import Policy, policy_of
from difffit_core.methods.structure import attentions, blocks, branch_ends, find, is_norm, is_token_norm, replace_modules
from difffit_core.methods.trained_parameters import TrainedParameters, biases, class_table, new_in_copy, whole

SCALABLE = (nn.Linear, nn.Conv2d)


def prepare_difffit(model: nn.Module, config: DiffFitConfig) -> TrainedParameters:
    """Mark each bias, norm and class table, the modules trained whole, and γ on the layers that the family's policy names.

    Everything is chosen by the types of modules, never by names of parameters: in a DiT of diffusers "norm1" also holds
    the adaLN projection and the embedders, which stay frozen. Raises SpecError for a module that does not exist.
    """
    policy = policy_of(config, family_of(model))
    marks = new_in_copy(model) | norm_weights(model, policy) | add_new_biases(model, policy)
    if policy.biases:
        marks |= biases(model)
    if config.class_table is not False:
        marks |= class_table(model)
    if config.class_table is True and "class_table" not in marks.values():
        raise SpecError(
            f"{type(model).__name__} has no class table to train; leave class_table out.", param="method.class_table"
        )
    for path in policy.train_modules:
        for match in find(model, path, "method.train_modules"):
            marks |= whole(model.get_submodule(match), "weight")
    return marks | add_scales(model, config, policy, frozenset(marks))


def add_new_biases(model: nn.Module, policy: Policy) -> TrainedParameters:
    """Give the Linears that the policy names a bias of zeros where they have none: it changes nothing until it is trained."""
    marks: TrainedParameters = {}
    if policy.new_biases == "none":
        return marks
    chosen = [path for linears in attentions(model) for path in linears]
    if policy.new_biases == "all":
        chosen = [path for path, module in model.named_modules() if isinstance(module, nn.Linear)]
    for path in chosen:
        linear = model.get_submodule(path)
        if isinstance(linear, nn.Linear) and linear.bias is None:
            weight = linear.weight
            linear.bias = nn.Parameter(torch.zeros(linear.out_features, device=weight.device, dtype=weight.dtype))
            marks[linear.bias] = "bias"
    return marks


def norm_weights(model: nn.Module, policy: Policy) -> TrainedParameters:
    """The weights and biases of the norms that the policy names."""
    chosen: Callable[[nn.Module], bool] = is_token_norm if policy.norms == "layer" else is_norm
    if policy.norms == "none":
        return {}
    return {p: "norm" for module in model.modules() if chosen(module) for p in module.parameters(recurse=False)}


def add_scales(model: nn.Module, config: DiffFitConfig, policy: Policy, trained: frozenset[nn.Parameter]) -> TrainedParameters:
    """Replace the chosen layers by scaled ones. A layer whose weight is trained itself needs no γ and gets none."""
    has_scales = region(model, config, policy)
    names: dict[nn.Linear | nn.Conv2d, list[str]] = defaultdict(list)
    for path in scaled_layers(model, policy, has_scales):
        names[layer_at(model, path)].append("gamma")
    if policy.branch_scales:
        for path in filter(has_scales, branch_ends(model)):
            names[layer_at(model, path)].append("gamma_branch")
    scaled = {layer: with_scales(layer, own) for layer, own in names.items() if layer.weight not in trained}
    replace_modules(model, scaled)
    return {getattr(layer, name): "scale" for layer in scaled.values() for name in layer.scale_names}


def region(model: nn.Module, config: DiffFitConfig, policy: Policy) -> Callable[[str], bool]:
    """Tells whether the module at a path lies in the blocks with γ: anywhere, where every block has it or there are no blocks.

    Raises SpecError where the config asks for γ in more blocks than there are.
    """
    found = blocks(model)
    count = max(1, int(policy.scaled_share * len(found))) if config.scale_blocks == "auto" else config.scale_blocks
    if config.scale_blocks != "auto" and count > len(found):
        there = f"{len(found)} blocks, {found[0]} to {found[-1]}" if found else "no blocks; leave it out"
        raise SpecError(
            f"scale_blocks is {count}, but {type(model).__name__} has {there}.",
            code="unknown_module",
            param="method.scale_blocks",
        )
    if count >= len(found) and count > 0:
        return lambda path: True
    return lambda path: lies_in(path, found[:count])


def scaled_layers(model: nn.Module, policy: Policy, has_scales: Callable[[str], bool]) -> list[str]:
    """The paths of the layers that carry γ, those of branches aside. Raises SpecError for a name that none of them has."""
    if policy.scale_layers == "none":
        return []
    if policy.scale_layers == "attention":
        return [path for linears in attentions(model) for path in filter(has_scales, linears)]
    if policy.scale_layers == "all":
        return [path for path, module in model.named_modules() if isinstance(module, SCALABLE) and has_scales(path)]
    chosen: dict[str, None] = {}
    for name in policy.scale_layers:
        named = find(model, name, "method.scale_layers", among=SCALABLE)
        kept = [path for path in named if has_scales(path) or not lies_in(path, blocks(model))]
        if not kept:
            raise SpecError(
                f"{named[0]} lies behind the last block that carries γ; raise scale_blocks, or leave {name!r} out.",
                code="unknown_module",
                param="method.scale_layers",
            )
        chosen |= dict.fromkeys(kept)
    return list(chosen)


def lies_in(path: str, parents: Sequence[str]) -> bool:
    """Whether a module lies below one of `parents`."""
    return any(path.startswith(f"{parent}.") for parent in parents)


def layer_at(model: nn.Module, path: str) -> nn.Linear | nn.Conv2d:
    layer = model.get_submodule(path)
    assert isinstance(layer, SCALABLE)
    return layer
