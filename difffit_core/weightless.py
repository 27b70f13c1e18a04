"""Models without numbers: as large as the real ones, and built from their configs in a moment, for whoever plans a training."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor
from torch._guards import active_fake_mode
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

MASKLESS = "sdpa_maskless"  # PyTorch's attention, told by a flag that it is causal


@contextmanager
def without_weights() -> Iterator[None]:
    """While this is open tensors have shapes, dtypes and devices, and no memory; models are not read from their files."""
    mode = FakeTensorMode()
    # Its memory of tensors holds weak references, with which a module's `to` cannot exchange them.
    mode.fake_tensor_converter.set_tensor_memo = lambda t, v: None  # type: ignore[method-assign]
    with mode:
        yield


def is_weightless() -> bool:
    return active_fake_mode() is not None


def has_numbers(tensor: Tensor) -> bool:
    return not tensor.is_meta and not isinstance(tensor, FakeTensor)


def load_pretrained(kind: Any, folder: Path, **options: Any) -> Any:
    """The model of a class of diffusers or transformers in `folder`; without weights only its config is read.

    Raises OSError or ValueError where it cannot be read.
    """
    if not is_weightless():
        return kind.from_pretrained(folder, use_safetensors=True, **options)
    if hasattr(kind, "load_config"):  # diffusers
        return kind.from_config(kind.load_config(folder))
    return _from_config(kind, folder, **options)


def _from_config(kind: Any, folder: Path, **options: Any) -> Any:
    """A model of transformers, without its weights."""
    from transformers import AttentionInterface, AttentionMaskInterface, AutoConfig  # a DiT needs no text models
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    config = AutoConfig.from_pretrained(folder)
    if not hasattr(kind, "from_config"):
        return kind(config)
    # A causal model makes a mask unless it sees in its positions that it needs none, and here it sees no numbers.
    AttentionInterface.register(MASKLESS, sdpa_attention_forward)
    AttentionMaskInterface.register(MASKLESS, lambda *_, **__: None)
    return kind.from_config(config, attn_implementation=MASKLESS, **options)
