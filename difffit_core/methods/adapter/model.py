"""Adapters in any model with MLPs: one bottleneck a block, everything else frozen but the class table."""

from torch import nn

from difffit_core.errors import SpecError
from difffit_core.methods.adapter.config import ParallelAdapterConfig, SequentialAdapterConfig
from difffit_core.methods.adapter.layer import Bottleneck, behind, beside
from difffit_core.methods.structure import mlps
from difffit_core.methods.trained_parameters import TrainedParameters, never_trained, whole


def prepare_adapter(model: nn.Module, config: ParallelAdapterConfig | SequentialAdapterConfig) -> TrainedParameters:
    """Add a bottleneck to each MLP, as its submodule `adapter`, and mark it. Raises SpecError where there is no MLP."""
    marks = never_trained(model)
    parallel = isinstance(config, ParallelAdapterConfig)
    found = list(mlps(model))
    if not found:
        raise SpecError(
            f"{type(model).__name__} has no MLP to add an adapter to.", code="method_does_not_fit", param="method.type"
        )
    for path, end in found:
        mlp, last = model.get_submodule(path), model.get_submodule(end)
        scale = config.scale if isinstance(config, ParallelAdapterConfig) else 1.0
        adapter = Bottleneck(last.out_features, config.bottleneck, scale, like=last.weight)  # type: ignore[arg-type]
        mlp.add_module("adapter", adapter)
        mlp.register_forward_hook(beside if parallel else behind)
        marks |= whole(adapter, "added")
    return marks
