"""The file of a dataset's encoded examples: the tensors of its parts, bound to the items that they were made of."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from difffit_core.dataset import Item
from difffit_core.errors import DatasetError

Parts = Mapping[str, Sequence[Item]]  # "train" and "validation"


def write_encoded(path: Path, parts: Parts, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Write the tensors of each part, whole or not at all."""
    unfinished = path.with_suffix(".part")
    flat = {f"{part}/{name}": tensor.contiguous() for part, of_part in tensors.items() for name, tensor in of_part.items()}
    save_file(flat, unfinished, {"items": _digest(parts)})
    unfinished.replace(path)


def read_encoded(path: Path, parts: Parts, device: torch.device) -> dict[str, dict[str, Tensor]]:
    """The tensors of each part on the device; raises DatasetError where the file is damaged or of other items."""
    try:
        with safe_open(path, "pt", str(device)) as file:
            if (file.metadata() or {}).get("items") != _digest(parts):
                raise DatasetError(f"{path.name} was made of other examples.", code="invalid_encodings")
            found: dict[str, dict[str, Tensor]] = {part: {} for part in parts}
            for key in file.keys():  # noqa: SIM118  # it is no dictionary
                part, name = key.split("/", 1)
                found[part][name] = file.get_tensor(key)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise DatasetError(f"{path.name} cannot be read: {error}", code="invalid_encodings") from error
    return found


def _digest(parts: Parts) -> str:
    """Hash of the examples of each part in their order."""
    return hashlib.sha256(json.dumps(list(_lines(parts))).encode()).hexdigest()


def _lines(parts: Parts) -> Iterator[list[str]]:
    for part, items in parts.items():
        yield from ([part, item.label, item.sha256] for item in items)
