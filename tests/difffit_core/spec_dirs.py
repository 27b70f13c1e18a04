"""SPEC_DIRs for every task: a tiny base in its on-disk format, a small real dataset, and a resolved spec.json."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from difffit_core.data.dataset import index_class_folders, write_index
from difffit_core.runtime.processes import Processes
from difffit_core.spec.catalog import BaseModelEntry, Family, TrainingDefaults
from difffit_core.spec.job import DatasetSummary, JobSpec, TrainingSpec
from difffit_core.spec.resolve import resolve
from difffit_core.training.events import EventLog
from difffit_core.training.stopping import StopRequest
from difffit_core.training.trainer import Trainer
from tests.tiny_models import (
    write_tiny_base,
    write_tiny_controlnet,
    write_tiny_llama,
    write_tiny_pixart,
    write_tiny_stable_diffusion,
)

Settings = dict[str, object]

DREAMBOOTH: Settings = {"type": "dreambooth", "subject": "star"}
CASES: dict[str, tuple[Family, Settings]] = {
    "class-conditional": ("dit", {"type": "class-conditional"}),
    "text-to-image": ("stable-diffusion", {"type": "text-to-image"}),
    "text-to-image-pixart": ("pixart", {"type": "text-to-image"}),
    "dreambooth": (
        "stable-diffusion",
        {"type": "dreambooth", "subject": "star", "prior_images": 3, "train_text_encoder": True},
    ),
    "controlnet": ("controlnet", {"type": "controlnet"}),
    "controlnet-copy": ("stable-diffusion", {"type": "controlnet"}),
    "instruction": ("llama", {"type": "instruction"}),
}  # a base's family, and a task on it
TASKS = tuple(CASES)
CPU = torch.device("cpu")
ADAPTER = "adapter/adapter.safetensors"
COLOURS = {"star": (250, 200, 30), "tree": (20, 120, 40)}


def write_base(folder: Path, name: str) -> BaseModelEntry:
    """A tiny base for the case of this name."""
    family, _ = CASES[name]
    match family:
        case "dit":
            return write_tiny_base(folder)
        case "llama":
            write_tiny_llama(folder)
        case "pixart":
            write_tiny_pixart(folder)
        case _:
            write_tiny_stable_diffusion(folder)
    if family == "controlnet":
        write_tiny_controlnet(folder / "controlnet")
    defaults = TrainingDefaults(
        pretraining_learning_rate=1e-3, steps=4, batch_size=4, guidance_scale=3.0, sample_steps=2, scheduler="ddim"
    )
    return BaseModelEntry.in_folder("tiny", folder, defaults, family)


def write_spec_dir(
    folder: Path, base: BaseModelEntry, method: str = "difffit", task: Settings | None = None, **hyperparameters: object
) -> TrainingSpec:
    """A SPEC_DIR with 20 examples for a task, the first of `base` if none is given; 4 pictures of one thing for DreamBooth.

    The examples are plain-coloured pictures of two classes, or small sums.
    """
    dataset, settings = folder / "dataset", {"type": base.tasks[0]} if task is None else task
    dataset.mkdir(parents=True)
    summary = write_sums(dataset) if settings["type"] == "instruction" else write_pictures(dataset, str(settings["type"]))
    body = {"base_model": "tiny", "dataset": "ds_tiny", "method": {"type": method}, "task": settings}
    spec = resolve(JobSpec.model_validate(body | {"hyperparameters": hyperparameters}), base, summary)
    (folder / "spec.json").write_text(spec.model_dump_json())
    return spec


def write_pictures(folder: Path, task: str) -> DatasetSummary:
    random = np.random.default_rng(0)
    rows: list[dict[str, str]] = []
    for name, colour in COLOURS.items():
        (folder / name).mkdir()
        for number in range(10):
            file = f"{name}/{number}.png"
            pixels = np.clip(np.array(colour) + random.integers(-20, 20, (16, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / file)
            rows.append({"file": file, "caption": f"a {name}, no {number}"})
    if task == "class-conditional":
        return index_class_folders(folder)
    if task == "dreambooth":
        return write_index(folder, ({"file": row["file"]} for row in rows[:4]))
    if task == "controlnet":
        (folder / "conditions").mkdir()
        for row in rows:
            row["condition"] = f"conditions/{row['file'].replace('/', '-')}"
            with Image.open(folder / row["file"]) as picture:
                picture.convert("L").convert("RGB").save(folder / row["condition"])
    return write_index(folder, rows)


def write_sums(folder: Path) -> DatasetSummary:
    return write_index(folder, ({"prompt": f"{a} + {b} = ", "answer": str(a + b)} for a in range(5) for b in range(4)))


def events_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def make_trainer(folder: Path, spec: TrainingSpec, stop: StopRequest | None = None, device: torch.device = CPU) -> Trainer:
    return Trainer(spec, folder, Processes(device), EventLog(folder / "events.jsonl"), stop or StopRequest())


def run_here(folder: Path, spec: TrainingSpec, stop_at: int | None = None, device: torch.device = CPU) -> list[dict[str, Any]]:
    """Train in this process; as if SIGTERM came while step `stop_at` was at work."""
    stop = StopRequest()
    trainer = make_trainer(folder, spec, stop, device)
    update = trainer.state.update

    def update_and_stop() -> None:
        update()
        if trainer.state.step == stop_at:
            stop.on_signal()

    trainer.state.update = update_and_stop  # type: ignore[method-assign]
    trainer.run()
    return events_of(folder)
