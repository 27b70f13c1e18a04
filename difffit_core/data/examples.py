"""What a SPEC_DIR is trained on: its examples, split and encoded, unless this job or another has done that already."""

import hashlib
from itertools import islice
from pathlib import Path

import torch

from difffit_core.data.buckets import size_name
from difffit_core.data.captions import FILE as CAPTIONS
from difffit_core.data.captions import read_items, write_missing_captions
from difffit_core.data.dataset import Item, by_size, split
from difffit_core.data.encoded_file import Buckets, Parts, kept_captions, read_encoded, write_encoded
from difffit_core.data.encodings import FILE, sizes_of
from difffit_core.errors import DatasetError
from difffit_core.spec.job import TrainingSpec
from difffit_core.tasks.task import Examples, Task
from difffit_core.training.events import EventLog

SHOWN_CAPTIONS = 10  # of those that were written, in an event
VALIDATION_DRAWS = 512  # (example, random numbers) pairs of a validation, at most


def caption_pictures(spec: TrainingSpec, folder: Path, device: torch.device, events: EventLog) -> None:
    """Write the captions that the task asks for, but not again what was written for the encodings that are there."""
    encoded, kept = folder / FILE, folder / CAPTIONS
    if encoded.exists() and not kept.exists():
        kept.write_text(kept_captions(encoded))

    def progress(done: int, of: int) -> None:
        events.emit("encoding", part="captions", done=done, total=of)

    captions = write_missing_captions(spec, folder, device, progress)
    if captions:
        shown = [{"file": file, "caption": caption} for file, caption in islice(captions.items(), SHOWN_CAPTIONS)]
        events.emit("captioned", pictures=len(captions), examples=shown)


def load_examples(spec: TrainingSpec, folder: Path, task: Task, events: EventLog) -> tuple[Buckets, Buckets]:
    """What is trained on and what is held out, if anything is, on the task's device. Raises DatasetError."""
    items = read_items(spec, folder)
    if not items:
        raise DatasetError("The dataset holds no examples.")
    items, told = task.usable(items)
    for message in [*told, *task.warnings(items)]:
        events.emit("warning", message=message)
    train, held_out = split(items, spec.hyperparameters.validation_fraction)
    parts = {"train": train, "validation": held_out[:VALIDATION_DRAWS]}  # a validation draws no more
    buckets = _kept(folder, parts, task, events) or _encode(spec, folder, parts, task, events)
    _warn_of_small(spec, buckets["train"], events)
    return buckets["train"], buckets["validation"]


def _kept(folder: Path, parts: Parts, task: Task, events: EventLog) -> dict[str, Buckets] | None:
    """What this job or another has encoded already, where it can be used."""
    path = folder / FILE
    if not path.exists():
        return None
    try:
        buckets = read_encoded(path, parts, task.device)
    except DatasetError as error:
        events.emit("warning", message=f"The examples are encoded anew: {error.message}")
        return None
    events.emit("encodings_reused", examples=sum(map(len, parts.values())))
    return buckets


def _encode(spec: TrainingSpec, folder: Path, parts: Parts, task: Task, events: EventLog) -> dict[str, Buckets]:
    """The examples of each part, kept in a file from which an interrupted job, or another one, goes on."""
    path, captions = folder / FILE, folder / CAPTIONS
    buckets = {part: _encode_part(spec, folder / "dataset", part, items, task, events) for part, items in parts.items()}
    write_encoded(path, parts, buckets, captions.read_text() if captions.exists() else "")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    events.emit("encoded", path=FILE, bytes=path.stat().st_size, sha256=digest)
    return read_encoded(path, parts, task.device)


def _encode_part(spec: TrainingSpec, dataset: Path, part: str, items: list[Item], task: Task, events: EventLog) -> Buckets:
    buckets, before, sizes = list[Examples](), 0, sizes_of(spec)

    def looked(done: int, of: int) -> None:
        events.emit("encoding", part="sizes", done=done, total=of)

    def progress(done: int, of: int) -> None:
        events.emit("encoding", part=part, done=before + done, total=max(len(items), before + of))

    groups = by_size(items, dataset, sizes, looked) if sizes else {None: items}
    for size, members in groups.items() if items else ():
        buckets.append(Examples(members, task.encode(members, dataset, size, progress), size))
        before += len(members)
    return buckets


def _warn_of_small(spec: TrainingSpec, buckets: Buckets, events: EventLog) -> None:
    batch = spec.hyperparameters.batch_size
    small = [f"{size_name(b.size)} ({len(b)})" for b in buckets if b.size is not None and len(b) < batch]
    if small and spec.hyperparameters.aspect == "buckets":
        message = f"These buckets hold fewer pictures than a batch of {batch}, and repeat them in it: {', '.join(small)}."
        events.emit("warning", message=f"{message} Each picture is still seen as often as any other.")
