"""Captions for pictures that have none, written once by a BLIP model that the operator has."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from difffit_core.data.dataset import Item, read_index
from difffit_core.data.pictures import to_rgb
from difffit_core.errors import ModelError
from difffit_core.spec.job import TrainingSpec
from difffit_core.tasks.config import fields_of

FILE = "captions.jsonl"  # in a SPEC_DIR: {"file", "caption"} a line
BATCH = 16
MAX_TOKENS = 30  # of a caption


def read_items(spec: TrainingSpec, folder: Path) -> list[Item]:
    """The examples of a SPEC_DIR, with captions that were written for those without. Raises what `read_index` does."""
    items = read_index(folder / "dataset", fields_of(spec.task))
    written = _read(folder / FILE)
    return [item if item.caption else replace(item, caption=written.get(item.file, "")) for item in items]


def write_missing_captions(
    spec: TrainingSpec, folder: Path, device: torch.device, progress: Callable[[int, int], None]
) -> dict[str, str]:
    """Caption the pictures of a SPEC_DIR that lack one, where the task asks for that; returns the new captions by file.

    The likeliest words are taken, so that the same pictures have the same captions in every job. An interrupted run goes on.
    Raises ModelError where there is no BLIP model, DatasetError where the index cannot be read.
    """
    if getattr(spec.task, "caption_with", None) is None:
        return {}
    missing = [item.file for item in read_index(folder / "dataset", fields_of(spec.task)) if not item.caption]
    written = _read(folder / FILE)
    left = [file for file in missing if file not in written]
    if not left:
        return {}
    processor, model = load_blip(spec.captioner_path, device)
    for start in range(0, len(left), BATCH):
        files = left[start : start + BATCH]
        written |= dict(zip(files, describe(processor, model, [folder / "dataset" / file for file in files]), strict=True))
        part = (folder / FILE).with_suffix(".part")
        part.write_text("".join(json.dumps({"file": f, "caption": caption}) + "\n" for f, caption in written.items()))
        part.replace(folder / FILE)
        progress(start + len(files), len(left))
    return {file: written[file] for file in left}


def load_blip(path: str | None, device: torch.device) -> tuple[Any, Any]:
    """BLIP's processor and model (Li et al. 2022, arXiv 2201.12086) from a folder; raises ModelError where there is none."""
    from transformers import BlipForConditionalGeneration, BlipProcessor  # here, because few jobs need them

    if path is None:
        raise ModelError(
            "Pictures have no captions, and there is no BLIP model here to write them. Add captions to the dataset, or ask the "
            "operator for one.",
            code="no_captioner",
            param="task.caption_with",
        )
    try:
        if json.loads((Path(path) / "config.json").read_text()).get("model_type") != "blip":
            raise ValueError("its config.json is of another kind of model")
        processor = BlipProcessor.from_pretrained(path)
        model = BlipForConditionalGeneration.from_pretrained(path, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path} is not a folder with a BLIP model: {error}", code="invalid_captioner", param="task.caption_with"
        ) from error
    return processor, model.requires_grad_(False).eval().to(device)


@torch.no_grad()
def describe(processor: Any, model: Any, files: list[Path]) -> list[str]:
    """A caption for each picture."""
    pictures = []
    for file in files:
        with Image.open(file) as opened:
            pictures.append(to_rgb(opened))
    inputs = processor(images=pictures, return_tensors="pt").to(model.device)
    output = model.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=MAX_TOKENS)
    return [str(caption).strip() for caption in processor.batch_decode(output, skip_special_tokens=True)]


def _read(path: Path) -> dict[str, str]:
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {row["file"]: row["caption"] for row in rows}
