"""How far is the memory that a plan foretells from what training takes there? Twelve jobs of all families, with random weights.

What planning.py adds for the allocator is fitted on every other job, and judged on those between.
"""

import gc
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import torch

from benchmarks.bases import base_in
from benchmarks.gpu.record import Clock, Record, Row, scratch
from benchmarks.peaks import peak_bytes, warm_up
from benchmarks.trainings import job
from difffit_core.planning.estimate import Memory
from difffit_core.planning.plan import estimate
from difffit_core.runtime.devices import is_out_of_memory, pick_device
from difffit_core.spec.job import TrainingSpec

EXAMPLES = 64
FORETELLING = 6  # processes, since a plan of a large model takes seconds; the figures are measured meanwhile
CASE_SECONDS = 5.0  # at most, of a case: those for which there is no time are left out
GOAL = 0.10  # error of the jobs that are judged
DREAMBOOTH = {"type": "dreambooth", "subject": "dog"}
# Fitted and judged in turn.
CASES: list[Row] = [
    {"base": "dit-xl-2-256", "method": "difffit", "batch_size": 32},
    {"base": "dit-xl-2-256", "method": "lora-r8", "batch_size": 64},
    {"base": "sd-1.5", "method": "difffit", "batch_size": 8},
    {"base": "sd-1.5", "method": "lora-r8", "batch_size": 4, "task": DREAMBOOTH},
    {"base": "llama-1b", "method": "lora-r8", "batch_size": 16, "micro_batch_size": 4, "max_tokens": 512},
    {"base": "llama-1b", "method": "difffit", "batch_size": 8, "max_tokens": 512, "base_precision": "nf4"},
    {"base": "dit-xl-2-256", "method": "full", "batch_size": 32},
    {"base": "dit-xl-2-512", "method": "full", "batch_size": 32, "micro_batch_size": 8},
    {"base": "pixart-xl-2-512", "method": "difffit", "batch_size": 8},
    {"base": "sd-1.5-controlnet", "method": "difffit", "batch_size": 4},
    {"base": "dit-xl-2-512", "method": "difffit", "batch_size": 16, "gradient_checkpointing": True},
    {"base": "dit-xl-2-256", "method": "difffit", "batch_size": 32, "base_precision": "int8"},
]
SMALL_CASES: list[Row] = [
    {"base": "dit-small", "method": "difffit", "batch_size": 64},
    {"base": "dit-small", "method": "full", "batch_size": 64},
]


def run(record: Record, small: bool, seconds: float) -> None:
    clock, device, folder = Clock(seconds), pick_device("auto"), scratch() / "bases"
    jobs = [(case, plan_of(case, folder)) for case in (SMALL_CASES if small else CASES)]
    record.write(goal=GOAL)
    spawn = multiprocessing.get_context("spawn")
    with ThreadPoolExecutor(1) if small else ProcessPoolExecutor(FORETELLING, spawn) as pool:
        foretold = [pool.submit(memory_of, spec, str(device)) for _, spec in jobs]
        if small:
            wait(foretold)
        warm_up(device, folder)
        for number, ((case, spec), future) in enumerate(zip(jobs, foretold, strict=True)):
            if not small and clock.left < CASE_SECONDS:
                record.add("left_out", case)
                future.cancel()
                continue
            row = case | {"part": "judged" if number % 2 else "fitted"} | compared(spec, device, future)
            print(row, flush=True)
            record.add("cases", row)
            record.write(**fitted(record.figures["cases"]))


def plan_of(case: Row, folder: Path) -> TrainingSpec:
    settings = {name: value for name, value in case.items() if name not in ("base", "method", "task")}
    return job(base_in(folder, case["base"]), case["method"], EXAMPLES, case.get("task"), **settings)


def memory_of(spec: TrainingSpec, device: str) -> Memory:
    """In another process."""
    torch.set_num_threads(1)
    return estimate(spec, torch.device(device)).memory


def compared(spec: TrainingSpec, device: torch.device, foretold: "Future[Memory]") -> Row:
    """Measured and foretold bytes of a job, or why there are none."""
    try:
        measured = peak_bytes(spec, device)
        row: Row = {"measured_bytes": measured}
        if device.type == "cuda":
            row["reserved_bytes"] = torch.cuda.max_memory_reserved(device)
        memory = foretold.result()
    except Exception as error:
        error.__traceback__ = None  # its frames hold the activations
        return {"error": "out of memory" if is_out_of_memory(error) else f"{type(error).__name__}: {error}"[:500]}
    finally:
        gc.collect()
    parts = ("frozen_weights", "trained_values", "optimizer", "ema", "examples")
    resident = sum(getattr(memory, part) for part in parts)
    step = memory.total - memory.allocator - resident
    planned = {"planned_bytes": memory.total, "resident_bytes": resident, "step_bytes": step}
    return row | planned | {"planned_error": round(memory.total / measured - 1, 4)}


def fitted(rows: Sequence[Row]) -> Row:
    """The share of a step's bytes to add for the allocator that fits the first half best, and the errors with it."""
    measured = [row for row in rows if "measured_bytes" in row and "step_bytes" in row]
    first = [row for row in measured if row["part"] == "fitted"]
    if not first:
        return {}
    gaps = min((step / 1000 for step in range(1001)), key=lambda share: largest_error(first, share) or 0.0)
    second = [row for row in measured if row["part"] == "judged"]
    found: Row = {"gaps": gaps, "fitted_error": largest_error(first, gaps), "judged_error": largest_error(second, gaps)}
    error = max(found["fitted_error"], found["judged_error"] or 0.0)
    return found | {"constants": {"GAPS": gaps, "ERRORS": round(error + 0.005, 2)}, "as_planned_error": as_planned(measured)}


def largest_error(rows: Sequence[Row], gaps: float) -> float | None:
    """As a share of what was measured; None without rows."""
    errors = [(row["resident_bytes"] + (1 + gaps) * row["step_bytes"]) / row["measured_bytes"] - 1 for row in rows]
    return round(max(map(abs, errors)), 4) if errors else None


def as_planned(rows: Sequence[Row]) -> float:
    return float(max(abs(row["planned_error"]) for row in rows))


def summary(figures: dict[str, Any]) -> list[str]:
    lines = []
    for row in figures.get("cases", []):
        names = ("base", "method", "part", "error", *(name for name in row if name.endswith(("_bytes", "_error"))))
        settings = ", ".join(f"{name} {value}" for name, value in row.items() if name not in names)
        case = f"{row['base']:<18}{row['method']:<9}{settings[:56]:<57}"
        if "planned_bytes" in row:
            sizes = f"{row['planned_bytes'] / 1e9:>8.2f} GB planned{row['measured_bytes'] / 1e9:>8.2f} GB measured"
            lines.append(f"{case}{sizes}{row['planned_error']:>+8.1%}  {row['part']}")
        else:
            lines.append(case + str(row.get("error"))[:90])
    if "gaps" in figures:
        judged = f"fitted {figures['fitted_error']}, judged {figures['judged_error']}, goal {figures['goal']}"
        lines.append(f"errors: as planned {figures['as_planned_error']}, {judged}; for planning.py: {figures['constants']}")
    return lines
