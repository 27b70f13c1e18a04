"""The most memory that a few steps of a training take, measured: a GPU's allocator counts, a CPU's process is looked at."""

import ctypes
from pathlib import Path

import torch

from benchmarks.bases import base_in
from benchmarks.trainings import Training, job, load
from difffit_core.spec.job import TrainingSpec

STEPS = 3  # the second step is the first whose optimiser has its state


def warm_up(device: torch.device, bases: Path) -> None:
    """Let PyTorch allocate what it allocates once, whatever is trained."""
    training = Training(load(job(base_in(bases, "dit-small"), "bitfit", 2, batch_size=1), device))
    for _ in range(STEPS):
        training()


def peak_bytes(spec: TrainingSpec, device: torch.device) -> int:
    """Of a few steps, the model included but not what loading it took, in a process that is warmed up.

    On a CPU each measurement wants a process of its own: the heap keeps what the one before has let go.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated(device)
        task = load(spec, device)
        torch.cuda.reset_peak_memory_stats(device)
    else:
        trim()
        before = resident("VmRSS")
        task = load(spec, device)
        for module in task.modules():  # a file that is mapped into memory stays there for the sake of its last tensor
            for tensor in (*module.parameters(), *module.buffers()):
                tensor.data = tensor.data.clone()
        trim()
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts from what is resident now
    training = Training(task)
    for _ in range(STEPS):
        training()
    return (torch.cuda.max_memory_allocated(device) if device.type == "cuda" else resident("VmHWM")) - before


def trim() -> None:
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def resident(field: str) -> int:
    """Bytes of this process: now (`VmRSS`), or the most since the last look (`VmHWM`)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
