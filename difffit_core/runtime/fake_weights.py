"""Models built from their configs in a moment: without numbers, for who plans a training, or with random ones, to time it."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._guards import active_fake_mode
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

MASKLESS = "sdpa_maskless"  # PyTorch's attention, told by a flag that it is causal
STANDARD_DEVIATION = 0.02  # of random matrices: what transformers are initialised with
_random_on: ContextVar[torch.device | None] = ContextVar("random_on", default=None)


@contextmanager
def without_weights() -> Iterator[None]:
    """While this is open tensors have shapes, dtypes and devices, and no memory; models are not read from their files."""
    mode = FakeTensorMode()
    # Its memory of tensors holds weak references, with which a module's `to` cannot exchange them.
    mode.fake_tensor_converter.set_tensor_memo = lambda t, v: None  # type: ignore[method-assign]
    with mode:
        yield


@contextmanager
def random_weights(device: torch.device) -> Iterator[None]:
    """While this is open models are made on `device` with random numbers: what a step costs depends on the shapes alone."""
    token = _random_on.set(device)
    try:
        yield
    finally:
        _random_on.reset(token)


def is_weightless() -> bool:
    return active_fake_mode() is not None


def has_numbers(tensor: Tensor) -> bool:
    return not tensor.is_meta and not isinstance(tensor, FakeTensor)


def load_pretrained(kind: Any, folder: Path, **options: Any) -> Any:
    """The model of a class of diffusers or transformers in `folder`, of which only the config is read where weights are not.

    Raises OSError or ValueError where it cannot be read.
    """
    if is_weightless():
        return _weightless(kind, folder, **options)
    device = _random_on.get()
    if device is not None:
        return _random(kind, folder, device, **options)
    return kind.from_pretrained(folder, use_safetensors=True, **options)


def _weightless(kind: Any, folder: Path, **options: Any) -> Any:
    if hasattr(kind, "load_config"):  # diffusers
        return kind.from_config(kind.load_config(folder))
    from transformers import AttentionInterface, AttentionMaskInterface, AutoConfig  # a DiT needs no text models
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    config = AutoConfig.from_pretrained(folder)
    if not hasattr(kind, "from_config"):
        return kind(config)
    # A causal model makes a mask unless it sees in its positions that it needs none, and here it sees no numbers.
    AttentionInterface.register(MASKLESS, sdpa_attention_forward)
    AttentionMaskInterface.register(MASKLESS, lambda *_, **__: None)
    return kind.from_config(config, attn_implementation=MASKLESS, **options)


def _random(kind: Any, folder: Path, device: torch.device, **options: Any) -> nn.Module:
    """Matrices of one shape are alike, and biases are zero: a DiT's copies of its conditioning are equal, as published ones."""
    with device:
        if hasattr(kind, "load_config"):  # diffusers
            model = kind.from_config(kind.load_config(folder))
        else:
            from transformers import AutoConfig  # a DiT needs no text models

            config = AutoConfig.from_pretrained(folder)
            model = kind.from_config(config, **options) if hasattr(kind, "from_config") else kind(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=STANDARD_DEVIATION, generator=torch.Generator(device).manual_seed(0))
            elif name.endswith("bias"):
                parameter.zero_()
    return model  # type: ignore[no-any-return]
