"""Features of the held-out pictures of a dataset, computed once and kept in a file that jobs on the dataset share."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from difffit_core.data.dataset import Item, load_picture
from difffit_core.evaluation.extractors import BATCH, FeatureExtractor
from difffit_core.evaluation.metrics import EvaluationPlan, ExtractorName

FOLDER = "references"  # in a SPEC_DIR


def reference_features(
    plan: EvaluationPlan, name: ExtractorName, extractor: FeatureExtractor, items: Sequence[Item], spec_dir: Path
) -> Tensor:
    """`[M, D]` of the pictures of `items` in `dataset/`. The file of them in `references/` is written where it is missing."""
    path = spec_dir / FOLDER / file_name(plan, name, extractor.sha256)
    try:
        kept: Tensor = load_file(path)["features"]
        if len(kept) == len(items):
            return kept
    except (OSError, KeyError, SafetensorError):
        pass  # it is not there, or was cut off
    parts, size = [], (plan.resolution, plan.resolution)
    for start in range(0, len(items), BATCH):
        pictures = [load_picture(spec_dir / "dataset" / item.file, size) for item in items[start : start + BATCH]]
        parts.append(extractor.features(((torch.stack(pictures) + 1) * 127.5).round().to(torch.uint8)))
    write_tensors(path, {"features": torch.cat(parts)})
    return torch.cat(parts)


def file_name(plan: EvaluationPlan, name: ExtractorName, weights_sha256: str) -> str:
    """One for each dataset, split, resolution, network and weights."""
    key = [plan.reference.dataset, plan.reference.split, plan.resolution, name, weights_sha256]
    return f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()}.safetensors"


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, unfinished)
    unfinished.replace(path)
