"""The base models an operator offers: entries of `models.toml`, each a folder in the diffusers layout. Torch-free."""

import hashlib
import json
import tomllib
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from difffit_core.errors import ModelError

PACKAGED_CATALOG = Path(__file__).parent / "models.toml"


class TrainingDefaults(BaseModel):
    """What "auto" means for jobs and samples on this base."""

    model_config = ConfigDict(extra="forbid")

    pretraining_learning_rate: float
    steps: int
    batch_size: int
    guidance_scale: float
    sample_steps: int
    scheduler: Literal["ddpm", "ddim", "dpmsolver++"]
    min_snr_gamma: float | None = None  # weight the loss by min(SNR, this) (arXiv 2303.09556); none: every step alike


class BaseModelEntry(BaseModel):
    """One `[[model]]` table of a catalog. `path` is a folder; relative ones are taken from the catalog's own folder."""

    model_config = ConfigDict(extra="forbid")

    id: str
    family: Literal["dit"]
    task: Literal["class-conditional"]
    description: str
    license: str
    path: Path
    defaults: TrainingDefaults

    @classmethod
    def in_folder(cls, model_id: str, path: Path, defaults: TrainingDefaults) -> Self:
        """An entry for a DiT folder that no catalog lists, such as the one a trainer is pointed at."""
        return cls(
            id=model_id, family="dit", task="class-conditional", description="", license="", path=path, defaults=defaults
        )

    def class_names(self) -> list[str]:
        """The label space of the base, by class index, from `id2label` in `model_index.json`."""
        index = _read_json(self.path / "model_index.json")
        labels = {int(key): str(name) for key, name in dict(index.get("id2label", {})).items()}
        return [labels[i] for i in range(len(labels))]

    def image_size(self) -> int:
        """Width and height in pixels of the pictures the base makes: latent size x the autoencoder's factor."""
        transformer, vae = _read_json(self.path / "transformer" / "config.json"), _read_json(self.path / "vae" / "config.json")
        return int(transformer["sample_size"]) << (len(vae["block_out_channels"]) - 1)

    def size_bytes(self) -> int:
        return sum(f.stat().st_size for f in self.path.rglob("*.safetensors"))

    def sha256(self) -> str:
        """Hash of the transformer's weights: what an adapter is bound to."""
        return _file_sha256(self.path / "transformer" / "diffusion_pytorch_model.safetensors")


def load_catalog(path: Path = PACKAGED_CATALOG) -> dict[str, BaseModelEntry]:
    """Read a `models.toml`; raises ModelError that names the file where it is missing or malformed."""
    try:
        tables = tomllib.loads(path.read_text()).get("model", [])
        entries = [BaseModelEntry.model_validate(table) for table in tables]
    except (OSError, tomllib.TOMLDecodeError, ValidationError) as error:
        raise ModelError(f"The model catalog {path} cannot be read: {error}", code="invalid_catalog") from error
    return {e.id: e.model_copy(update={"path": (path.parent / e.path).resolve()}) for e in entries}


def get_base_model(catalog: dict[str, BaseModelEntry], model_id: str) -> BaseModelEntry:
    """The entry of `model_id`; raises ModelError (`unknown_base_model`) that lists what there is."""
    if model_id not in catalog:
        known = ", ".join(sorted(catalog))
        raise ModelError(
            f"There is no base model {model_id!r}. This server offers: {known}.", code="unknown_base_model", param="base_model"
        )
    return catalog[model_id]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ModelError(f"The base model's file {path.name} cannot be read: {error}") from error
    return loaded


@cache
def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
