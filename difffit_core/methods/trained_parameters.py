"""What a method trains: each parameter with its kind, and the marks that several methods share."""

from typing import Literal

from torch import nn

from difffit_core.families.registry import COPIED_CONTROLNET, ZERO_CONVOLUTIONS, family_of
from difffit_core.methods.structure import class_tables, has_own_bias, is_norm

Kind = Literal["bias", "scale", "norm", "class_table", "weight", "added"]
TrainedParameters = dict[nn.Parameter, Kind]  # the first mark of a parameter stands


def biases(model: nn.Module) -> TrainedParameters:
    """Every bias of Linears, convolutions and norms."""
    marks: TrainedParameters = {}
    for module in model.modules():
        if (has_own_bias(module) or is_norm(module)) and isinstance(getattr(module, "bias", None), nn.Parameter):
            marks[module.bias] = "norm" if is_norm(module) else "bias"  # type: ignore[index]
    return marks


def class_table(model: nn.Module) -> TrainedParameters:
    """The table of class labels where the model has one."""
    return {parameter: "class_table" for table in class_tables(model) for parameter in table.parameters()}


def never_trained(model: nn.Module) -> TrainedParameters:
    """What any method has to train since its base does not know it: the class table, and a ControlNet's zero convolutions."""
    marks = class_table(model) | new_in_copy(model)
    if family_of(model) == "controlnet":
        for name in ZERO_CONVOLUTIONS:
            marks |= whole(model.get_submodule(name), "weight")
    return marks


def new_in_copy(model: nn.Module) -> TrainedParameters:
    """What a ControlNet that starts as a copy of its UNet has beside the copy and the zero convolutions."""
    names: tuple[str, ...] = getattr(model, COPIED_CONTROLNET, ())
    return {parameter: "weight" for name in names for parameter in model.get_submodule(name).parameters()}


def whole(module: nn.Module, kind: Kind) -> TrainedParameters:
    """Every parameter of a module."""
    return dict.fromkeys(module.parameters(), kind)
