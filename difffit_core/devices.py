"""Where to compute, and in which precision."""

from contextlib import AbstractContextManager, nullcontext

import torch

from difffit_core.errors import SpecError


def pick_device(name: str) -> torch.device:
    """The device of "auto", "cpu" or "cuda"; raises SpecError where it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise SpecError(f"Device {name!r} was asked for, but PyTorch sees no CUDA GPU here; set DIFFFIT_DEVICE=cpu or auto.")
    return torch.device(name)


def is_out_of_memory(error: Exception) -> bool:
    """Whether PyTorch could not get the memory for a tensor, on a GPU or from the allocator of the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def training_autocast(device: torch.device) -> AbstractContextManager[object]:
    """bf16 where the hardware multiplies it natively; else fp32."""
    native = torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_avx512_bf16_supported()
    return torch.autocast(device.type, dtype=torch.bfloat16) if native else nullcontext()


def inference_autocast(device: torch.device) -> AbstractContextManager[object]:
    """bf16 on a GPU; fp32 on the CPU, where small batches gain nothing and pictures stay the same on every machine."""
    return training_autocast(device) if device.type == "cuda" else nullcontext()
