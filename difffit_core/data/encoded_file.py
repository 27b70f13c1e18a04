"""The file of a dataset's encoded examples: the tensors of each bucket, bound to the items that they were made of."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from difffit_core.data.buckets import size_name, size_of
from difffit_core.data.dataset import Item
from difffit_core.errors import DatasetError
from difffit_core.tasks.task import Examples, Tensors

Parts = Mapping[str, list[Item]]  # "train" and "validation"
Buckets = list[Examples]  # of one size each, that of the most examples first

POSITIONS = "positions"  # [N]: where the examples of a bucket stand among the items of their part
NO_SIZE = "any"  # the name of the bucket of all texts


def write_encoded(path: Path, parts: Parts, buckets: Mapping[str, Buckets], captions: str = "") -> None:
    """Write the buckets of each part, and captions that were written for them, whole or not at all."""
    flat: Tensors = {}
    for part, items in parts.items():
        position_of = {item: position for position, item in enumerate(items)}
        for examples in buckets[part]:
            name = NO_SIZE if examples.size is None else size_name(examples.size)
            positions = torch.tensor([position_of[item] for item in examples.items])
            tensors = examples.tensors | {POSITIONS: positions}
            flat |= {f"{part}/{name}/{key}": tensor.contiguous() for key, tensor in tensors.items()}
    unfinished = path.with_suffix(".part")
    save_file(flat, unfinished, {"items": _digest(parts), "captions": captions})
    unfinished.replace(path)


def read_encoded(path: Path, parts: Parts, device: torch.device) -> dict[str, Buckets]:
    """The buckets of each part on the device; raises DatasetError where the file is damaged or of other items."""
    found: dict[str, dict[str, Tensors]] = {part: defaultdict(dict) for part in parts}
    try:
        with safe_open(path, "pt", str(device)) as file:
            if (file.metadata() or {}).get("items") != _digest(parts):
                raise DatasetError(f"{path.name} was made of other examples.", code="invalid_encodings")
            for key in file.keys():  # noqa: SIM118  # it is no dictionary
                part, name, tensor = key.split("/")
                found[part][name][tensor] = file.get_tensor(key)
        return {part: _buckets(parts[part], found[part]) for part in parts}
    except (OSError, ValueError, LookupError, SafetensorError) as error:
        raise DatasetError(f"{path.name} cannot be read: {error}", code="invalid_encodings") from error


def kept_captions(path: Path) -> str:
    """The captions that `write_encoded` was given; none where the file is damaged."""
    try:
        with safe_open(path, "pt") as file:
            return str((file.metadata() or {}).get("captions", ""))
    except (OSError, SafetensorError):
        return ""


def _buckets(items: list[Item], tensors: Mapping[str, Tensors]) -> Buckets:
    buckets = []
    for name, of_bucket in tensors.items():
        chosen = [items[position] for position in of_bucket.pop(POSITIONS).tolist()]
        buckets.append(Examples(chosen, of_bucket, None if name == NO_SIZE else size_of(name)))
    return sorted(buckets, key=lambda examples: (-len(examples), examples.size))


def _digest(parts: Parts) -> str:
    """Hash of the examples of each part in their order."""
    lines = [[part, item.label, item.sha256] for part, items in parts.items() for item in items]
    return hashlib.sha256(json.dumps(lines).encode()).hexdigest()
