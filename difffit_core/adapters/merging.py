"""Merge an adapter into the weights of a base model, at any strength, and take it out again bit for bit."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from diffusers import DiTTransformer2DModel
from torch import Tensor, nn

from difffit_core.adapters.file import Adapter
from difffit_core.adapters.fitting import fit, give_label_space
from difffit_core.errors import AdapterError, SpecError
from difffit_core.families.dit.network import class_embedder, tie_conditioning

MERGEABLE = frozenset({"difffit", "bitfit", "full", "lora"})
FACTORS = frozenset({"gamma", "gamma_branch"})  # what multiplies the output of a Linear or a convolution
MAX_STRENGTH = 2.0
Holders = list[tuple[nn.Module, str]]  # the modules that use a parameter, and its name in each
MARK = "holds_merged_adapter"  # an attribute of each module that a merge has changed


class Merge:
    """An adapter that is merged into a model. Until `unmerge` nothing else may replace the model's parameters."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._undo: list[Callable[[], None]] = []
        self.replaced: list[Tensor] = []  # the base's own parameters, which wait for their return

    def unmerge(self) -> None:
        """Restore the base bit for bit: its own parameter objects and class table return, added biases go."""
        while self._undo:
            self._undo.pop()()
        self.replaced.clear()

    def set_parameter(self, holders: Holders, value: Tensor) -> None:
        """Let the modules use one new parameter, in the dtype and on the device of what it replaces."""
        olds = [module._parameters[name] for module, name in holders]
        like = next(self._model.parameters()) if olds[0] is None else olds[0]

        def restore() -> None:
            for (module, name), old in zip(holders, olds, strict=True):
                module.register_parameter(name, old)
                module.__dict__.pop(MARK, None)

        self._undo.append(restore)
        self.replaced += [old for old in olds if old is not None]
        parameter = nn.Parameter(value.to(like), requires_grad=False)
        for module, name in holders:
            module.register_parameter(name, parameter)
            module.__dict__[MARK] = True

    def set_label_space(self, adapter: Adapter, base_names: Sequence[str]) -> None:
        """Give a class-conditional model the adapter's classes."""
        model = self._model
        if not isinstance(model, DiTTransformer2DModel):
            return
        embedder = class_embedder(model)
        table, classes, configured = embedder.embedding_table, embedder.num_classes, model.config.num_embeds_ada_norm

        def restore() -> None:
            embedder.embedding_table, embedder.num_classes = table, classes
            model.register_to_config(num_embeds_ada_norm=configured)

        self._undo.append(restore)
        give_label_space(model, adapter, base_names)


@torch.no_grad()
def merge(model: nn.Module, adapter: Adapter, strength: float = 1.0, *, base_names: Sequence[str] = ()) -> Merge:
    """Fold an adapter into an untouched base whose classes are `base_names`; the model then needs no code of ours.

    With the strength α in [0, 2]: `γ_α = 1 + α (γ - 1)` for each factor, `W' = diag(γ_α) W`, `b' = γ_α (b₀ + α (b - b₀))`,
    and likewise for norms and class tables; a bias that the base lacks starts from 0. At 0 the model is the base with the
    adapter's classes. Raises SpecError for another strength, AdapterError where the adapter does not fit, its method
    cannot be merged, or an adapter is merged already.
    """
    check_strength(strength)
    check_mergeable(adapter)
    check_untouched(model)
    skeleton = fit(model, adapter, base_names)
    if isinstance(model, DiTTransformer2DModel):
        tie_conditioning(model)
    merged = Merge(model)
    try:
        merged.set_label_space(adapter, base_names)
        for holders, value in _changes(model, skeleton, adapter, strength):
            merged.set_parameter(holders, value)
    except BaseException:
        merged.unmerge()
        raise
    return merged


def check_strength(strength: float) -> None:
    """Raise SpecError (`invalid_strength`) unless 0 <= strength <= 2."""
    if not 0 <= strength <= MAX_STRENGTH:
        raise SpecError(
            f"The strength of an adapter is 0 to {MAX_STRENGTH:g}, not {strength}; 1 is the adapter as it was trained.",
            code="invalid_strength",
            param="adapter_strength",
        )


def check_mergeable(adapter: Adapter) -> None:
    """Raise AdapterError (`not_mergeable`) for a method that adds modules of its own to the model."""
    if adapter.header.method.type not in MERGEABLE:
        name = next(iter(adapter.tensors))
        raise AdapterError(
            f"An adapter of the method {adapter.header.method.type!r} cannot be merged: {name} belongs to a module that "
            "the base does not have. Apply it unmerged, at strength 1 (`difffit_core.adapters.fitting.inject`).",
            code="not_mergeable",
            param=name,
        )


def check_untouched(model: nn.Module) -> None:
    """Raise AdapterError that names the first module with an adapter merged into it or put around it, or packed weights."""
    for path, module in model.named_modules():
        if isinstance(module._modules.get("weight"), nn.Module):
            raise AdapterError(
                f"{path} holds its weight in few bits, which only training on it can use; load the base in fp32.",
                code="packed_base",
                param=path,
            )
        if MARK in module.__dict__ or FACTORS & module._parameters.keys():
            raise AdapterError(
                f"{path} carries an adapter already; call `unmerge()` first, or load the base anew.",
                code="already_merged",
                param=path,
            )


def _changes(model: nn.Module, skeleton: nn.Module, adapter: Adapter, strength: float) -> Iterator[tuple[Holders, Tensor]]:
    """Each parameter to set: where it is used, and its new value in fp32."""
    holders, device = _holders(model), next(model.parameters()).device
    tensors = {name: tensor.to(device) for name, tensor in adapter.tensors.items()}
    for path, trained in by_module(tensors).items():
        module = model.get_submodule(path)
        scale, values = at_strength(module._parameters, trained, strength)
        if scale is None:
            for name, value in values.items():
                yield holders.get(id(module._parameters[name]), [(module, name)]), value
        else:  # γ is of this module's output: a table that shares the weight keeps it
            yield [(module, "weight")], rows_scaled(values.get("weight", _weight(module)), scale)
            bias = values.get("bias", module._parameters["bias"])
            if bias is not None:
                yield [(module, "bias")], bias.float() * scale
    for path, layer in lora_layers(skeleton, tensors).items():
        weight = _weight(model.get_submodule(path))
        delta = layer.get_delta_weight(layer.active_adapter[0])  # [out, in]
        yield [(model.get_submodule(path), "weight")], weight + strength * delta.to(weight)


def _holders(model: nn.Module) -> dict[int, Holders]:
    """Everywhere a parameter is used, by its identity: a tied one is held by several modules."""
    holders: dict[int, Holders] = defaultdict(list)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            holders[id(parameter)].append((module, name))
    return holders


def _weight(module: nn.Module) -> Tensor:
    """The weight of a Linear or a convolution in fp32."""
    weight = module.get_parameter("weight")
    return weight.detach().float()


def by_module(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """An adapter's tensors but those of LoRA, by the path of their module and their name there."""
    modules: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for full_name, tensor in tensors.items():
        path, _, name = full_name.rpartition(".")
        if ".lora_" not in full_name:
            modules[path][name] = tensor
    return dict(modules)


def at_strength(
    own: Mapping[str, Tensor | None], trained: Mapping[str, Tensor], strength: float
) -> tuple[Tensor | None, dict[str, Tensor]]:
    """The product of a module's scale factors `[C]`, or None, and the values of its own parameters, all in fp32.

    `own` are the base's parameters, on the device of `trained`. `torch.lerp` is exact at both ends: at 0 the values are the
    base's, at 1 the trained ones.
    """
    scale: Tensor | None = None
    values = {}
    for name, tensor in trained.items():
        start = own.get(name)
        if start is None:
            start = torch.ones_like(tensor) if name in FACTORS else torch.zeros_like(tensor)  # γ, or a new bias
        value = torch.lerp(start.float(), tensor, strength)
        if name in FACTORS:
            scale = value if scale is None else scale * value
        else:
            values[name] = value
    return scale, values


def rows_scaled(weight: Tensor, scale: Tensor) -> Tensor:
    """`diag(γ) W` for the weight of a Linear `[C, in]` or a convolution `[C, in, kh, kw]`."""
    return weight * scale.view(-1, *[1] * (weight.ndim - 1))


def lora_layers(skeleton: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """PEFT's LoRA layers by path, with the adapter's matrices in them; `skeleton` is what `fit` returns."""
    lora = {name: tensor for name, tensor in tensors.items() if ".lora_" in name}
    if not lora:
        return {}
    from peft.tuners.lora import LoraLayer  # here, because it takes a second to import and most adapters are no LoRA

    skeleton.load_state_dict(lora, strict=False, assign=True)
    return {path: layer for path, layer in skeleton.named_modules() if isinstance(layer, LoraLayer)}
