"""The adapter: one safetensors file of what was trained, whose header says for which base, from what data and how."""

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from difffit_core.errors import AdapterError
from difffit_core.families.registry import Family
from difffit_core.methods.config import MethodConfig
from difffit_core.spec.job import TrainingSpec
from difffit_core.tasks.config import TASK, TaskConfig

FORMAT = "difffit-adapter"
FORMAT_VERSION = "1"


@dataclass(frozen=True)
class AdapterHeader:
    """What the file says of itself. `class_names` is empty unless the base is class-conditional.

    `resolution` is that of the pictures in pixels, or None for a model that makes none.
    """

    base_model: str
    base_sha256: str
    dataset_sha256: str
    family: Family
    method: MethodConfig
    class_names: list[str]
    task: TaskConfig
    resolution: int | None = None


class Adapter(NamedTuple):
    """What was trained: its header, and its tensors by the names their parameters have in the prepared model."""

    header: AdapterHeader
    tensors: dict[str, Tensor]

    def nbytes(self) -> int:
        """The memory that its tensors take."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


def save_adapter(
    path: Path,
    tensors: dict[str, Tensor],
    spec: TrainingSpec,
    base_sha256: str,
    family: Family,
    class_names: list[str],
    resolution: int | None,
) -> None:
    """Write the trained tensors in fp32 with the header; the same training gives the same bytes.

    `resolution` is that of the pictures, in pixels, or None for a model that makes none.
    """
    config = spec.model_dump(mode="json", exclude={"base_model_path", "captioner_path", "feature_weights"})
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "base_model": spec.base_model,
        "base_sha256": base_sha256,
        "dataset_sha256": spec.dataset.sha256,
        "family": family,
        "task": spec.task.model_dump_json(),
        "method": spec.method.model_dump_json(),
        "class_names": json.dumps(class_names),
        "config": json.dumps(config, sort_keys=True),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{family}/{spec.method.type}",
        "modelspec.implementation": "difffit",
        "modelspec.title": f"{spec.method.type} adapter for {spec.base_model}",
    }
    if resolution is not None:
        header["modelspec.resolution"] = f"{resolution}x{resolution}"
    part = path.with_suffix(".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: t.detach().float().cpu().contiguous() for name, t in sorted(tensors.items())}, part, metadata=header)
    _sort_header(part)
    part.replace(path)


def _sort_header(path: Path) -> None:
    """Put the metadata of a safetensors file in order; the library writes it in a different one each time."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    entries = json.loads(data[8:end])
    entries["__metadata__"] = dict(sorted(entries["__metadata__"].items()))
    header = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)  # the format aligns tensors to 8 bytes
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[end:])


def read_adapter(path: Path) -> Adapter:
    """Read an adapter; raises AdapterError for anything that is not a whole file of this format with finite values."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError) as error:
        reason = "it is a pickle, which could run any code" if _is_pickle(path) else str(error)
        raise AdapterError(f"{path.name} is not a readable safetensors file: {reason}.") from error
    if metadata.get("format") != FORMAT or metadata.get("format_version") != FORMAT_VERSION:
        raise AdapterError(
            f"{path.name} is not a DiffFit adapter of format version {FORMAT_VERSION}: its header says "
            f"{metadata.get('format')!r}, version {metadata.get('format_version')!r}."
        )
    resolution = metadata.get("modelspec.resolution")
    try:
        header = AdapterHeader(
            base_model=metadata["base_model"],
            base_sha256=metadata["base_sha256"],
            dataset_sha256=metadata["dataset_sha256"],
            family=TypeAdapter[Family](Family).validate_python(metadata["family"]),
            method=TypeAdapter[MethodConfig](MethodConfig).validate_json(metadata["method"]),
            class_names=TypeAdapter(list[str]).validate_json(metadata["class_names"]),
            task=TASK.validate_json(metadata["task"]),
            resolution=int(resolution.partition("x")[0]) if resolution else None,
        )
    except (KeyError, ValueError) as error:  # ValidationError is a ValueError
        raise AdapterError(f"The header of {path.name} is incomplete: {error}") from error
    check_finite(tensors)
    return Adapter(header, tensors)


def _is_pickle(path: Path) -> bool:
    """Whether a file starts as `pickle.dump` (its protocol's opcode) or `torch.save` (a zip archive) begin theirs."""
    with suppress(OSError), path.open("rb") as file:
        return file.read(4).startswith((b"\x80", b"PK"))
    return False


def check_finite(tensors: dict[str, Tensor]) -> None:
    """Raise AdapterError that names the first tensor with a NaN or an infinity in it."""
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise AdapterError(
                f"The adapter's {name} holds values that are not finite numbers; its training diverged or the file is damaged. "
                "Use an earlier checkpoint, or train again with a lower learning rate.",
                code="not_finite",
                param=name,
            )


def check_base(header: AdapterHeader, base_sha256: str) -> None:
    """Raise AdapterError (`wrong_base`) unless the adapter was trained on the base with this hash."""
    if header.base_sha256 != base_sha256:
        raise AdapterError(
            f"The adapter was trained on {header.base_model} with weights {header.base_sha256[:12]}…, "
            f"but this base's are {base_sha256[:12]}…; use the base it was trained on.",
            code="wrong_base",
        )
