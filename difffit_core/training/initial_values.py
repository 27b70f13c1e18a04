"""Starting from another adapter's values: a new training, with a fresh optimiser, that does not begin at the base."""

from pathlib import Path

import torch

from difffit_core.adapters.file import check_base, read_adapter
from difffit_core.errors import AdapterError
from difffit_core.spec.job import TrainingSpec
from difffit_core.training.state import TrainingState

FILE = "init.safetensors"  # in a SPEC_DIR


def begin_with(state: TrainingState, path: Path, spec: TrainingSpec, base_sha256: str, class_names: list[str]) -> None:
    """Put an adapter's values into the parameters and their averages.

    Raises AdapterError unless base, task, method, classes, names and shapes are those of this training.
    """
    header, tensors = read_adapter(path)
    check_base(header, base_sha256)
    pairs = ("task", header.task.type, spec.task.type), ("method", header.method, spec.method)
    for what, theirs, ours in (*pairs, ("classes", header.class_names, class_names)):
        if theirs != ours:
            raise AdapterError(
                f"The adapter to begin with has another {what} than this training: {theirs}, not {ours}.",
                code="wrong_init_adapter",
                param="init_adapter",
            )
    if {name: tensor.shape for name, tensor in tensors.items()} != {name: p.shape for name, p in state.parameters.items()}:
        raise AdapterError(
            "The adapter to begin with holds other tensors than this training.", code="wrong_init_adapter", param="init_adapter"
        )
    with torch.no_grad():
        for name, parameter in state.parameters.items():
            parameter.copy_(tensors[name])
            state.ema[name].copy_(tensors[name])
