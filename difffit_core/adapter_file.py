"""The adapter: one safetensors file of what was trained, whose header says for which base, from what data and how."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DiTTransformer2DModel
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from difffit_core.dit import replace_class_table
from difffit_core.errors import AdapterError
from difffit_core.methods.config import MethodConfig
from difffit_core.methods.difffit.layer import merge_scaled_linears
from difffit_core.methods.injection import prepare, trained_parameters
from difffit_core.spec import TrainingSpec

FORMAT = "difffit-adapter"
FORMAT_VERSION = "1"


@dataclass(frozen=True)
class AdapterHeader:
    """What the file says of itself."""

    base_model: str
    base_sha256: str
    dataset_sha256: str
    method: MethodConfig
    class_names: list[str]


def save_adapter(
    path: Path, tensors: dict[str, Tensor], spec: TrainingSpec, base_sha256: str, class_names: list[str], resolution: int | None
) -> None:
    """Write the trained tensors in fp32 with the header; the same training gives the same bytes."""
    config = spec.model_dump(mode="json", exclude={"base_model_path"})
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "base_model": spec.base_model,
        "base_sha256": base_sha256,
        "dataset_sha256": spec.dataset.sha256,
        "method": spec.method.model_dump_json(),
        "class_names": json.dumps(class_names),
        "config": json.dumps(config, sort_keys=True),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"dit/{spec.method.type}",
        "modelspec.implementation": "https://huggingface.co/docs/diffusers/api/pipelines/dit",
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


def read_adapter(path: Path) -> tuple[AdapterHeader, dict[str, Tensor]]:
    """Read an adapter; raises AdapterError for anything that is not a whole file of this format."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"{path.name} is not a readable safetensors file: {error}") from error
    if metadata.get("format") != FORMAT or metadata.get("format_version") != FORMAT_VERSION:
        raise AdapterError(
            f"{path.name} is not a DiffFit adapter of format version {FORMAT_VERSION}: its header says "
            f"{metadata.get('format')!r}, version {metadata.get('format_version')!r}."
        )
    try:
        header = AdapterHeader(
            base_model=metadata["base_model"],
            base_sha256=metadata["base_sha256"],
            dataset_sha256=metadata["dataset_sha256"],
            method=TypeAdapter[MethodConfig](MethodConfig).validate_json(metadata["method"]),
            class_names=TypeAdapter(list[str]).validate_json(metadata["class_names"]),
        )
    except (KeyError, ValidationError) as error:
        raise AdapterError(f"The header of {path.name} is incomplete: {error}") from error
    return header, tensors


def load_trained(model: DiTTransformer2DModel, tensors: dict[str, Tensor]) -> None:
    """Copy trained tensors into a prepared model; raises AdapterError unless names and shapes match exactly."""
    parameters = trained_parameters(model)
    missing, unknown = sorted(parameters.keys() - tensors.keys()), sorted(tensors.keys() - parameters.keys())
    if missing or unknown:
        raise AdapterError(
            f"The adapter does not fit: {len(missing)} missing {missing[:3]}, {len(unknown)} unknown {unknown[:3]}."
        )
    for name, parameter in parameters.items():
        if parameter.shape != tensors[name].shape:
            raise AdapterError(f"The adapter's {name} is {tuple(tensors[name].shape)}, the model's {tuple(parameter.shape)}.")
        with torch.no_grad():
            parameter.copy_(tensors[name])


def apply_adapter(model: DiTTransformer2DModel, path: Path, base_sha256: str, base_names: list[str]) -> list[str]:
    """Merge an adapter into a base's transformer and return the adapter's class names.

    Raises AdapterError where the adapter was trained on another base or does not fit.
    """
    header, tensors = read_adapter(path)
    if header.base_sha256 != base_sha256:
        raise AdapterError(
            f"{path.name} was trained on {header.base_model} with weights {header.base_sha256[:12]}…, "
            f"but this base's are {base_sha256[:12]}…; use the base it was trained on.",
            code="wrong_base",
        )
    if header.class_names != base_names:
        replace_class_table(model, base_names, header.class_names)
    prepare(model, header.method)
    load_trained(model, tensors)
    model.requires_grad_(False)
    merge_scaled_linears(model)
    return header.class_names
