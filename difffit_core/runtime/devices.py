"""Where to compute, and in which precision."""

import os
import platform
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from difffit_core.errors import SpecError

CPU_INFO = Path("/proc/cpuinfo")
CONTAINER_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))  # cgroups 2 and 1
# What PyTorch says of it beside OutOfMemoryError: the allocator of the CPU; the driver, where a kernel or a context found no
# room; and the handles of cuBLAS and cuDNN, which take memory of their own.
OUT_OF_MEMORY = ("can't allocate memory", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")


def pick_device(name: str) -> torch.device:
    """The device of "auto", "cpu" or "cuda"; raises SpecError where it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise SpecError(f"Device {name!r} was asked for, but PyTorch sees no CUDA GPU here; set DIFFFIT_DEVICE=cpu or auto.")
    return torch.device(name)


def device_name(device: torch.device) -> str:
    """What people call the hardware: the GPU's name, or the CPU's model with the number of its cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = CPU_INFO.read_text().splitlines() if CPU_INFO.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{model}, {len(os.sched_getaffinity(0))} cores"


def total_memory(device: torch.device) -> int:
    """Bytes of the GPU, or of the machine where its container has no smaller limit."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [file.read_text().strip() for file in CONTAINER_LIMITS if file.exists()]
    return min([machine, *(int(limit) for limit in limits if limit.isdigit())])


def is_out_of_memory(error: Exception) -> bool:
    """Whether the memory for something could not be had, on a GPU or from the allocators of the CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)
    )


def training_autocast(device: torch.device) -> AbstractContextManager[object]:
    """bf16 where the hardware multiplies it natively; else fp32."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if multiplies_bf16(device) else nullcontext()


def multiplies_bf16(device: torch.device) -> bool:
    """Whether the hardware itself does: an older GPU, where PyTorch emulates bf16, is many times as fast in fp32."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())


def inference_autocast(device: torch.device) -> AbstractContextManager[object]:
    """bf16 on a GPU; fp32 on the CPU, where small batches gain nothing and pictures stay the same on every machine."""
    return training_autocast(device) if device.type == "cuda" else nullcontext()
