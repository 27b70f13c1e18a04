"""How far is the memory that a plan foretells from what training takes? `python -m benchmarks.plan_memory --json`."""

import argparse
import ctypes
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, DiTTransformer2DModel

from difffit_core.base_models import BaseModelEntry, get_base_model, load_catalog
from difffit_core.devices import device_name, pick_device
from difffit_core.planning import estimate
from difffit_core.resolving import resolve
from difffit_core.spec import DatasetSummary, JobSpec, TrainingSpec
from difffit_core.tasks.registry import ready_task
from difffit_core.tasks.task import Task
from difffit_core.training_state import TrainingState, random_generator

STEPS = 3  # the second step is the first whose optimiser has its state
WARM_UP = {"model": "emoji-dit", "method": "bitfit", "batch_size": 1}
# The published DiT-XL/2 needs a GPU; four of its 28 blocks have its shapes.
BLOCKS_4 = "dit-xl-2-blocks-4"
CASES: list[dict[str, Any]] = [
    *({"model": "emoji-dit", "method": method, "batch_size": 32} for method in ("difffit", "lora", "full")),
    {"model": "emoji-dit", "method": "difffit", "batch_size": 64},
    {"model": "emoji-dit", "method": "difffit", "batch_size": 64, "gradient_checkpointing": True},
    *({"model": BLOCKS_4, "method": method, "batch_size": 8} for method in ("difffit", "lora", "full")),
    {"model": BLOCKS_4, "method": "difffit", "batch_size": 8, "base_precision": "int8"},
    {"model": BLOCKS_4, "method": "difffit", "batch_size": 8, "gradient_checkpointing": True},
    {"model": BLOCKS_4, "method": "full", "batch_size": 8, "micro_batch_size": 2},
]


def resolved(case: dict[str, Any], bases: Path) -> TrainingSpec:
    """The spec of a case; its base has a folder in `bases` unless the catalog has it."""
    emoji = get_base_model(load_catalog(), "emoji-dit")
    base = emoji
    if case["model"] != "emoji-dit":
        base = BaseModelEntry.in_folder(case["model"], bases / case["model"], emoji.defaults)
    hyperparameters = {name: value for name, value in case.items() if name not in ("model", "method")}
    dataset = DatasetSummary(sha256="0" * 64, classes={"a": 64, "b": 64}, holds=["file", "label"])
    body = {"base_model": case["model"], "dataset": "ds", "method": {"type": case["method"]}}
    return resolve(JobSpec.model_validate(body | {"hyperparameters": hyperparameters}), base, dataset)


def write_blocks_4(folder: Path) -> None:
    """A base with random weights: what a step takes depends on the shapes alone."""
    model = DiTTransformer2DModel(out_channels=8, num_layers=4)
    for block in model.transformer_blocks[1:]:
        block.norm1.emb.load_state_dict(model.transformer_blocks[0].norm1.emb.state_dict())
    model.save_pretrained(folder / "transformer")
    AutoencoderKL(block_out_channels=(32,) * 4, down_block_types=("DownEncoderBlock2D",) * 4).save_config(folder / "vae")
    DDPMScheduler().save_config(folder / "scheduler")
    (folder / "model_index.json").write_text("{}")


def take_steps(task: Task, spec: TrainingSpec) -> None:
    """As the trainer does, on examples without meaning."""
    h = spec.hyperparameters
    state = TrainingState(task.parameters(), h, spec.seed)
    examples = task.blank(spec.dataset.examples)
    for name, tensor in examples.tensors.items():
        examples.tensors[name] = (tensor.normal_() if tensor.is_floating_point() else tensor).to(task.device)
    for step in range(STEPS):
        drawn = task.draw(examples, h.batch_size, random_generator(0, "step", step))
        for portion in torch.arange(h.batch_size).split(h.micro_batch_size):
            rows = {name: tensor[portion].to(task.device) for name, tensor in drawn.items()}
            (task.loss(examples, portion.to(task.device), rows).sum() / h.batch_size).backward()
        state.update()


def load(spec: TrainingSpec, device: torch.device) -> Task:
    base = BaseModelEntry.in_folder(spec.base_model, Path(spec.base_model_path), spec.defaults, spec.family)
    task = ready_task(spec, base, device)
    task.load_frozen()
    for module in task.modules():  # a file that is mapped into memory stays there for the sake of its last tensor
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.data = tensor.data.clone()
    return task


def peak_bytes(spec: TrainingSpec, device: torch.device) -> int:
    """Of a few steps, the model included but not what loading it took; measured here, so call it in a process of its own."""
    warm_up = resolved(WARM_UP, Path())
    take_steps(load(warm_up, device), warm_up)  # what PyTorch allocates once, whatever is trained
    if device.type == "cuda":
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated(device)
        task = load(spec, device)
        torch.cuda.reset_peak_memory_stats(device)
        take_steps(task, spec)
        return torch.cuda.max_memory_allocated(device) - before
    trim()
    before = resident("VmRSS")
    task = load(spec, device)
    trim()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from what is resident now
    take_steps(task, spec)
    return resident("VmHWM") - before


def trim() -> None:
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def measured_in_child(case: dict[str, Any], bases: Path, device: torch.device) -> int:
    command = [sys.executable, __file__, "--device", str(device), "--bases", str(bases), "--peak-of", json.dumps(case)]
    child = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return int(child.stdout.splitlines()[-1])


def compare(device: torch.device) -> dict[str, Any]:
    """Every case, foretold and measured."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write_blocks_4(Path(folder) / BLOCKS_4)
        for case in CASES:
            plan = estimate(resolved(case, Path(folder)), device)
            measured = measured_in_child(case, Path(folder), device)
            rows.append(
                case
                | {
                    "planned_mb": round(plan.memory.total / 1e6, 1),
                    "measured_mb": round(measured / 1e6, 1),
                    "error": round(plan.memory.total / measured - 1, 3),
                }
            )
    largest = max(abs(row["error"]) for row in rows)
    return {"device": device_name(device), "torch": torch.__version__, "largest_error": largest, "cases": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="Print one JSON line")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--bases", type=Path, default=Path(), help="Where the folders of the bases are")
    parser.add_argument("--peak-of", type=json.loads, help="Print the peak memory of one case, alone in this process")
    arguments = parser.parse_args()
    device = pick_device(arguments.device)
    if arguments.peak_of:
        print(peak_bytes(resolved(arguments.peak_of, arguments.bases), device))
        return
    found = compare(device)
    if arguments.json:
        print(json.dumps(found))
        return
    print(found["device"])
    for row in found["cases"]:
        what = ", ".join(str(value) for name, value in row.items() if not name.endswith("_mb") and name != "error")
        print(f"{what:<50}{row['planned_mb']:>10.0f} MB planned{row['measured_mb']:>10.0f} MB measured{row['error']:>+8.1%}")


if __name__ == "__main__":
    main()
