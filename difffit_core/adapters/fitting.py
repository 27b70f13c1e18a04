"""Whether an adapter fits a model: what its method trains there, name by name and shape by shape."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DiTTransformer2DModel
from torch import Tensor, nn

from difffit_core.adapters.file import Adapter, check_finite
from difffit_core.errors import AdapterError
from difffit_core.families.dit.network import replace_class_table
from difffit_core.families.registry import family_of
from difffit_core.methods.injection import prepare, trained_parameters

SHOWN = 3  # names in a message


def fit(model: nn.Module, adapter: Adapter, base_names: Sequence[str] = ()) -> nn.Module:
    """A copy without numbers of `model`, an untouched base whose classes are `base_names`, with the adapter's method put in.

    Raises AdapterError where a tensor is missing, unknown, mis-shaped or not finite, or the model is of another family.
    """
    header, tensors = adapter
    if header.family != family_of(model):
        raise AdapterError(
            f"The adapter is for a {header.family} model ({header.base_model}), but this {type(model).__name__} is of the "
            f"family {family_of(model)}.",
            code="wrong_family",
        )
    skeleton = meta_copy(model)
    give_label_space(skeleton, adapter, base_names)
    prepare(skeleton, header.method)
    check_tensors({name: p.shape for name, p in trained_parameters(skeleton).items()}, tensors)
    return skeleton


def meta_copy(model: nn.Module) -> nn.Module:
    """The structure of a model, ties included, without its numbers."""
    memo: dict[int, Any] = {id(p): nn.Parameter(p.to("meta"), p.requires_grad) for p in model.parameters()}
    memo |= {id(b): b.to("meta") for b in model.buffers()}
    return copy.deepcopy(model, memo)


def check_tensors(shapes: dict[str, torch.Size], tensors: dict[str, Tensor]) -> None:
    """Raise AdapterError unless names and shapes match exactly and every value is finite."""
    missing, unknown = sorted(shapes.keys() - tensors.keys()), sorted(tensors.keys() - shapes.keys())
    if missing or unknown:
        raise AdapterError(
            f"The adapter does not fit the model: {len(missing)} tensors are missing {missing[:SHOWN]}, "
            f"{len(unknown)} are unknown {unknown[:SHOWN]}. Use the base and the method it was trained with.",
            code="adapter_mismatch",
            param=(missing + unknown)[0],
        )
    for name, shape in shapes.items():
        if tensors[name].shape != shape:
            raise AdapterError(
                f"The adapter's {name} is {list(tensors[name].shape)}, the model's is {list(shape)}.",
                code="adapter_mismatch",
                param=name,
            )
    check_finite(tensors)


def inject(model: nn.Module, adapter: Adapter, base_names: Sequence[str] = ()) -> None:
    """Put the adapter's method and its tensors into the base `model`, unmerged and frozen. Every method can do this.

    Raises AdapterError as `fit` does, before the model is changed.
    """
    fit(model, adapter, base_names)
    give_label_space(model, adapter, base_names)
    prepare(model, adapter.header.method)
    load_trained(model, adapter.tensors)
    model.requires_grad_(False)


def give_label_space(model: nn.Module, adapter: Adapter, base_names: Sequence[str]) -> None:
    """Replace the class table of a class-conditional base by one of the adapter's classes, where they differ."""
    if isinstance(model, DiTTransformer2DModel):
        replace_class_table(model, base_names, adapter.header.class_names)


@torch.no_grad()
def load_trained(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Copy trained tensors into a prepared model; raises AdapterError unless they match it exactly and are finite."""
    parameters = trained_parameters(model)
    check_tensors({name: p.shape for name, p in parameters.items()}, tensors)
    for name, parameter in parameters.items():
        parameter.copy_(tensors[name])
