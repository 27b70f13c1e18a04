"""How far is the memory that a plan foretells from what training takes? `python -m benchmarks.plan_memory --json`."""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.bases import base_in
from benchmarks.peaks import peak_bytes, warm_up
from benchmarks.trainings import job
from difffit_core.planning.plan import estimate
from difffit_core.runtime.devices import device_name, pick_device
from difffit_core.spec.job import TrainingSpec

EXAMPLES = 128
BLOCKS_4 = "dit-xl-2-blocks-4"  # the published DiT-XL/2 needs a GPU; four of its 28 blocks have its shapes
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
    hyperparameters = {name: value for name, value in case.items() if name not in ("model", "method")}
    return job(base_in(bases, case["model"]), case["method"], EXAMPLES, **hyperparameters)


def measured_in_child(case: dict[str, Any], bases: Path, device: torch.device) -> int:
    command = [sys.executable, "-m", "benchmarks.plan_memory", "--device", str(device), "--bases", str(bases)]
    child = subprocess.run([*command, "--peak-of", json.dumps(case)], stdout=subprocess.PIPE, check=True, text=True)
    return int(child.stdout.splitlines()[-1])


def compare(device: torch.device) -> dict[str, Any]:
    """Every case, foretold and measured."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
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
        warm_up(device, arguments.bases)
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
