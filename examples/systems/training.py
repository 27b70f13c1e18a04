"""Run a job on a small base with the trainer that the service runs, and read what became of it."""

import json
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from difffit_core.adapters.export.merged import export_merged
from difffit_core.adapters.file import read_adapter
from difffit_core.spec.catalog import BaseModelEntry
from difffit_core.spec.job import DatasetSummary, JobSpec
from difffit_core.spec.resolve import resolve
from examples.emoji_dit.sources import fetch_packages

# Averages that a run of a few hundred steps can follow, and no samples on the way.
SHORT_RUN = {"ema_decay": 0.99, "sample_every": 1_000_000, "checkpoint_every": 250}


@dataclass(frozen=True)
class Places:
    """Where a build reads and writes."""

    work: Path  # bases and runs
    pictures: Path

    @property
    def modules(self) -> Path:
        """The artwork, fetched by the first run that draws."""
        return fetch_packages(self.work / "npm")


def train(
    spec_dir: Path,
    base: BaseModelEntry,
    summary: DatasetSummary,
    hyperparameters: dict[str, Any],
    task: dict[str, Any],
    method: dict[str, Any],
) -> Path:
    """Train in the SPEC_DIR, where `dataset/` lies, or go on there; returns the path of the adapter.

    Raises CalledProcessError if training fails or is stopped.
    """
    adapter = spec_dir / "adapter" / "adapter.safetensors"
    if not adapter.exists():
        asked = {"base_model": base.id, "dataset": "here", "task": task, "method": method}
        job = JobSpec.model_validate(asked | {"hyperparameters": SHORT_RUN | hyperparameters})
        (spec_dir / "spec.json").write_text(resolve(job, base, summary).model_dump_json(indent=2))
        command = [sys.executable, "-m", "difffit_core.training", str(spec_dir)]
        subprocess.run(command, check=True)
        if not adapter.exists():
            raise subprocess.CalledProcessError(0, command, stderr="stopped before its end")
    return adapter


def train_base(
    folder: Path, spec_dir: Path, untrained: BaseModelEntry, summary: DatasetSummary, hyperparameters: dict[str, Any]
) -> BaseModelEntry:
    """The base after its training from nothing, in a new folder of its own."""
    if not folder.exists():
        common = {"learning_rate": 1e-3, "lr_schedule": "warmup-stable-decay", "warmup_steps": 100, "ema_decay": 0.999}
        adapter = train(spec_dir, untrained, summary, common | hyperparameters, {"type": untrained.tasks[0]}, {"type": "full"})
        part = folder.with_suffix(".part")
        export_merged(untrained, read_adapter(adapter), part)
        part.rename(folder)
    return untrained.model_copy(update={"path": folder})


def figures(spec_dir: Path) -> dict[str, Any]:
    """Steps, parameters, losses and seconds of a run that has ended, from its events."""
    events = [json.loads(line) for line in (spec_dir / "events.jsonl").read_text().splitlines()]
    started = [event for event in events if event["type"] == "started"][-1]
    losses = [event["train_loss"] for event in events if event["type"] == "progress"][-50:]
    validations = [event["loss"] for event in events if event["type"] == "validation"]
    # Time between two events, unless the run was stopped between them.
    seconds = sum(after["time"] - before["time"] for before, after in pairwise(events) if after["type"] != "started")
    return {
        "run": spec_dir.name,
        "steps": started["total_steps"],
        "trained_parameters": started["trained_parameters"],
        "total_parameters": started["total_parameters"],
        "train_loss": round(sum(losses) / len(losses), 4),
        "validation_loss_base": validations[0] if validations else None,
        "validation_loss": validations[-1] if validations else None,
        "seconds": round(seconds),
    }


def in_words(run: dict[str, Any]) -> str:
    """The figures as the line below a picture's title."""
    trained, total = run["trained_parameters"], run["total_parameters"]
    line = f"{run['steps']} steps  ·  {trained:,} of {total:,} parameters trained ({trained / total:.1%})"
    if run["validation_loss"] is None:
        return line
    return f"{line}  ·  held-out loss {run['validation_loss_base']:.3f} to {run['validation_loss']:.3f}"
