"""What tells the encoded examples of one job from those of another: a key over all that they depend on. Torch-free."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from difffit_core.data.buckets import Size, bucket_sizes
from difffit_core.errors import ModelError
from difffit_core.spec.catalog import file_sha256, weights_sha256
from difffit_core.spec.job import TrainingSpec
from difffit_core.tasks.config import DreamBoothConfig

FILE = "encodings.safetensors"  # in a SPEC_DIR; see difffit_core.data.encoded_file
FORMAT = 2  # another number whenever the same examples would be encoded, split or laid out in another way
TOKENIZER_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "chat_template*",
    "config.json",
)


def encodings_key(spec: TrainingSpec) -> str:
    """The same for two jobs if and only if their examples are encoded alike; raises ModelError where the base lacks a file.

    What is drawn while training, such as noise and mirror images, is no part of the encodings, nor is what is trained.
    """
    h, path = spec.hyperparameters, Path(spec.base_model_path)
    inputs: dict[str, Any] = {
        "format": FORMAT,
        "task": spec.task.type,
        "dataset": spec.dataset.sha256,
        "validation_fraction": h.validation_fraction,
    }
    match spec.task.type:
        case "instruction":
            inputs |= {"frame": spec.task.frame, "max_tokens": h.max_tokens, "overlong": h.overlong}
            inputs |= {"tokenizer": _files(path, TOKENIZER_FILES)}
        case "class-conditional":
            inputs |= _pictures(spec)
        case "text-to-image" | "controlnet":
            inputs |= _pictures(spec) | _texts(path)
            if "caption" not in spec.dataset.holds:
                inputs |= {"captioner": _captioner(spec.captioner_path)}
        case "dreambooth":  # its prompts are embedded in every step
            inputs |= _pictures(spec) | _prior(spec)
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def _pictures(spec: TrainingSpec) -> dict[str, Any]:
    return {"sizes": sizes_of(spec), "vae": _network(Path(spec.base_model_path) / "vae")}


def sizes_of(spec: TrainingSpec) -> list[Size]:
    """The sizes to which pictures are brought, each to the nearest; none for texts."""
    h = spec.hyperparameters
    if h.resolution is None:
        return []
    return (
        bucket_sizes(h.resolution, spec.base().pixels_per_token()) if h.aspect == "buckets" else [(h.resolution, h.resolution)]
    )


def _texts(base: Path) -> dict[str, Any]:
    return {
        "pipeline": _files(base, ["model_index.json"]),  # says how many tokens PixArt's prompts have
        "tokenizer": _files(base / "tokenizer", TOKENIZER_FILES),
        "text_encoder": _network(base / "text_encoder"),
    }


def _captioner(path: str | None) -> Any:
    """What writes missing captions; nothing where it cannot be used, and then the trainer says so."""
    try:
        return path and [weights_sha256(Path(path)), _files(Path(path), ["*.json", "*.txt"])]
    except ModelError:
        return None


def _prior(spec: TrainingSpec) -> dict[str, Any]:
    """What the base's own pictures of the subject's kind depend on, where there are any."""
    assert isinstance(spec.task, DreamBoothConfig)
    if spec.task.prior_images == 0:
        return {}
    h, path = spec.hyperparameters, Path(spec.base_model_path)
    return _texts(path) | {
        "prior": [spec.task.prior_images, spec.task.prior_prompt, spec.seed, h.sample_steps, h.guidance_scale],
        "scheduler": [spec.defaults.scheduler, _files(path / "scheduler", ["*.json"])],
        "unet": [spec.base().sha256(), _files(path / "unet", ["config.json"])],
    }


def _network(folder: Path) -> list[Any]:
    return [weights_sha256(folder), _files(folder, ["config.json"])]


def _files(folder: Path, patterns: Iterable[str]) -> dict[str, str]:
    return {file.name: file_sha256(file) for pattern in patterns for file in sorted(folder.glob(pattern)) if file.is_file()}
