"""What does a training step cost, in time and in memory, with each method? `python -m benchmarks.train_step --json`."""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import DiTTransformer2DModel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.peaks import resident, trim
from benchmarks.trainings import matmul_flops_per_second, precision, synchronize
from difffit_core.families.dit.network import load_transformer, replace_class_table, tie_conditioning
from difffit_core.methods.config import named_method
from difffit_core.methods.injection import prepare, trained_parameters
from difffit_core.runtime.devices import pick_device, training_autocast
from difffit_core.spec.catalog import get_base_model, load_catalog

METHODS = ("difffit", "bitfit", "lora-r8", "lora-r16", "adapter-parallel", "adapter-sequential", "full")
# The published DiT-XL/2 needs a GPU. Four of its 28 blocks have its shapes, and so its balance of arithmetic and memory.
DEPTHS = {"dit-xl-2": 28, "dit-xl-2-blocks-4": 4}
MATMUL_SIZE = {"cuda": 4096, "cpu": 2048}
MEMORY_STEPS = 3  # the second step is the first whose optimiser has its state
FLOOR = 2 / 3  # a weight's matrix product, and the gradients of its input and itself, cost alike; the last is left out


class Step:
    """One method on one model, and the batch that all methods train on; a call is one whole step."""

    def __init__(self, model_name: str, method: str | None, batch: int, device: torch.device) -> None:
        torch.manual_seed(0)
        self.device = device
        self.model = build(model_name)
        channels, side, outputs = (self.model.config[k] for k in ("in_channels", "sample_size", "out_channels"))
        if method is None:
            freeze_all_but_the_first_bias(self.model)
        else:
            prepare(self.model, named_method(method))
        self.model.to(device).train()
        self.parameters = list(trained_parameters(self.model).values())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4, weight_decay=0.0, fused=True)
        generator = torch.Generator().manual_seed(0)
        self.latents = torch.randn(batch, channels, side, side, generator=generator).to(device)
        self.target = torch.randn(batch, outputs, side, side, generator=generator).to(device)
        self.timesteps = torch.randint(0, 1000, (batch,), generator=generator).to(device)
        self.labels = torch.randint(0, self.model.config.num_embeds_ada_norm, (batch,), generator=generator).to(device)

    def __call__(self) -> None:
        with training_autocast(self.device):
            output = self.model(self.latents, timestep=self.timesteps, class_labels=self.labels).sample
        (output.float() - self.target).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def seconds(self) -> float:
        synchronize(self.device)
        began = time.perf_counter()
        self()
        synchronize(self.device)
        return time.perf_counter() - began

    def flops(self) -> int:
        with FlopCounterMode(display=False) as counter:
            self()
        return int(counter.get_total_flops())

    def optimizer_bytes(self) -> int:
        moments = (value for state in self.optimizer.state.values() for value in state.values())
        return sum(value.nbytes for value in moments if value.ndim)


def build(model_name: str) -> DiTTransformer2DModel:
    """A model of the catalog with the classes it names, or random weights: what a step costs depends on the shapes alone."""
    if model_name not in DEPTHS:
        base = get_base_model(load_catalog(), model_name)
        known = load_transformer(base.path)
        replace_class_table(known, base.class_names(), base.class_names())
        return known
    model = DiTTransformer2DModel(out_channels=8, num_layers=DEPTHS[model_name])
    first = model.transformer_blocks[0].norm1.emb
    for block in model.transformer_blocks[1:]:
        block.norm1.emb = first
    tie_conditioning(model)
    return model


def freeze_all_but_the_first_bias(model: DiTTransformer2DModel) -> None:
    """The floor as this machine reaches it: a step that computes only what every method has to."""
    model.requires_grad_(False)
    model.pos_embed.proj.bias.requires_grad_(True)


def peak_mb(model_name: str, method: str, batch: int, device: torch.device) -> float:
    """Peak memory in MB of a few steps, the model included; measured here, so call it in a process of its own."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        run_steps(lambda: Step(model_name, method, batch, device))
        return torch.cuda.max_memory_allocated(device) / 1e6
    run_steps(lambda: Step("emoji-dit", "bitfit", 1, device))  # what PyTorch allocates once, whatever is trained
    trim()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from what is resident now
    before = resident("VmRSS")
    run_steps(lambda: Step(model_name, method, batch, device))
    return (resident("VmHWM") - before) / 1e6


def run_steps(make: Callable[[], Step]) -> None:
    step = make()
    for _ in range(MEMORY_STEPS):
        step()


def peak_mb_in_child(model_name: str, method: str, batch: int, device: torch.device) -> float:
    command = [
        sys.executable,
        "-m",
        "benchmarks.train_step",
        "--model",
        model_name,
        "--batch",
        str(batch),
        "--device",
        str(device),
    ]
    child = subprocess.run([*command, "--peak-mb-of", method], stdout=subprocess.PIPE, check=True, text=True)
    return float(child.stdout)


def measure(model_name: str, batch: int, rounds: int, device: torch.device) -> dict[str, Any]:
    """Every method on one model and batch: times in this process, then the peak memory of each in one of its own."""
    rows, floor_seconds, matmul = take_turns(model_name, batch, rounds, device)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    for method, row in rows.items():
        row["peak_mb"] = round(peak_mb_in_child(model_name, method, batch, device), 1)
    full = rows["full"]["seconds"]
    return {
        "model": model_name,
        "batch": batch,
        "rounds": rounds,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU",
        "threads": torch.get_num_threads(),
        "precision": precision(device),
        "matmul_tflops": round(matmul / 1e12, 3),
        "methods": rows,
        "floor": {
            "ratio_to_full": round(FLOOR, 3),
            "seconds": round(FLOOR * full, 4),
            "measured_seconds": round(floor_seconds, 4),
            "measured_ratio_to_full": round(floor_seconds / full, 3),
        },
    }


def take_turns(
    model_name: str, batch: int, rounds: int, device: torch.device
) -> tuple[dict[str, dict[str, Any]], float, float]:
    """A row of figures for each method, the seconds of the least step there can be, and the machine's rate of products.

    The methods take turns, step by step, so that what disturbs the machine hits all alike.
    """
    steps: dict[str | None, Step] = {method: Step(model_name, method, batch, device) for method in (*METHODS, None)}
    flops = {method: step.flops() for method, step in steps.items()}  # warms up, too
    times: dict[str | None, list[float]] = {method: [] for method in steps}
    for _ in range(rounds):
        for method, step in steps.items():
            times[method].append(step.seconds())
    seconds = {method: statistics.median(taken) for method, taken in times.items()}
    matmul = matmul_flops_per_second(device, MATMUL_SIZE[device.type])
    rows = {
        method: {
            "seconds": round(seconds[method], 4),
            "ratio_to_full": round(seconds[method] / seconds["full"], 3),
            "matmul_share": round(flops[method] / seconds[method] / matmul, 3),
            "optimizer_bytes": steps[method].optimizer_bytes(),
            "trained": sum(p.numel() for p in steps[method].parameters),
        }
        for method in METHODS
    }
    return rows, seconds[None], matmul


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="Print one JSON line")
    parser.add_argument("--model", help=f"{', '.join(DEPTHS)} or a model of the catalog")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--rounds", type=int, default=9, help="Steps of each method")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--peak-mb-of", choices=METHODS, help="Print the peak memory of one method, alone in this process")
    arguments = parser.parse_args()
    device = pick_device(arguments.device)
    model = arguments.model or ("dit-xl-2" if device.type == "cuda" else "dit-xl-2-blocks-4")
    batch = arguments.batch or (64 if device.type == "cuda" else 8)
    if arguments.peak_mb_of:
        print(peak_mb(model, arguments.peak_mb_of, batch, device))
        return
    found = measure(model, batch, arguments.rounds, device)
    if arguments.json:
        print(json.dumps(found))
        return
    print(f"{found['model']}, batch {batch}, {found['precision']}, {found['device']}, {found['threads']} threads")
    print(f"{'method':<20}{'seconds':>9}{'of full':>9}{'peak MB':>9}{'optimizer MB':>14}{'trained':>12}")
    for name, row in found["methods"].items():
        figures = f"{row['seconds']:>9.3f}{row['ratio_to_full']:>9.2f}{row['peak_mb']:>9.0f}"
        print(f"{name:<20}{figures}{row['optimizer_bytes'] / 1e6:>14.2f}{row['trained']:>12,}")
    print(f"{'floor':<20}{found['floor']['seconds']:>9.3f}{found['floor']['ratio_to_full']:>9.2f}")


if __name__ == "__main__":
    main()
