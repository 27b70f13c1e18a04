"""Checkpoint folders: named by their step, sealed with a digest that says whether they are whole, and found newest first."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from difffit_core.errors import ModelError

TENSORS, STATE = "state.safetensors", "state.json"  # the digest in the second is over both
NAME = re.compile(r"step-(\d+)")
CHUNK = 2**20


def step_name(step: int) -> str:
    """The name of what belongs to a step."""
    return f"step-{step:06d}"


def step_of(path: Path) -> int | None:
    """The step in such a name, which may have more digits than others; None for any other name."""
    found = NAME.fullmatch(path.name)
    return None if found is None else int(found[1])


def newest_first(folder: Path) -> list[Path]:
    """The checkpoint folders in a folder, those of the highest steps first."""
    steps = {path: step for path in folder.glob("step-*") if (step := step_of(path)) is not None}
    return sorted(steps, key=steps.__getitem__, reverse=True)


def seal(folder: Path, step: int, **state: Any) -> None:
    """Write down what a checkpoint folder is, beside its tensors, once these are written."""
    said = {"step": step} | state
    (folder / STATE).write_text(json.dumps(said | {"sha256": _digest(folder, said)}))


def check_whole(folder: Path) -> int:
    """The step of a checkpoint folder; raises ModelError (`invalid_checkpoint`) unless it is as it was sealed."""
    try:
        said = json.loads((folder / STATE).read_text())
        sealed, step = said.pop("sha256"), int(said["step"])
        whole = sealed == _digest(folder, said) and step == step_of(folder)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise damaged(folder, str(error)) from error
    if not whole:
        raise damaged(folder, "its content is not what its digest says")
    return step


def damaged(folder: Path, why: str) -> ModelError:
    return ModelError(f"The checkpoint {folder.name} is damaged: {why}.", code="invalid_checkpoint")


def _digest(folder: Path, said: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    with (folder / TENSORS).open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
