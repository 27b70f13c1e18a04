"""The adapter file: what its header says, and that anything but a whole, fitting file is refused."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest
import torch
from diffusers import DiTTransformer2DModel
from safetensors import safe_open
from safetensors.torch import save_file

from difffit_core.adapters.file import check_base, read_adapter, save_adapter
from difffit_core.adapters.fitting import load_trained
from difffit_core.errors import AdapterError
from difffit_core.families.dit.network import load_transformer, replace_class_table
from difffit_core.methods.difffit.config import DiffFitConfig
from difffit_core.methods.injection import prepare, trained_parameters
from difffit_core.spec.catalog import BaseModelEntry
from tests.difffit_core.spec_dirs import write_spec_dir


@pytest.fixture
def adapter(tmp_path: Path, tiny_base: BaseModelEntry) -> Path:
    spec = write_spec_dir(tmp_path / "job", tiny_base, steps=2)
    model = load_transformer(tiny_base.path)
    replace_class_table(model, tiny_base.class_names(), ["star", "tree"])
    prepare(model, spec.method)
    torch.manual_seed(0)
    tensors = {name: torch.rand_like(parameter) for name, parameter in trained_parameters(model).items()}
    path = tmp_path / "adapter.safetensors"
    save_adapter(path, tensors, spec, tiny_base.sha256(), "dit", ["star", "tree"], tiny_base.image_size())
    return path


def test_header_says_for_which_base_from_what_data_and_how(adapter: Path, tiny_base: BaseModelEntry) -> None:
    with safe_open(adapter, framework="pt") as file:
        metadata = file.metadata()
    assert (metadata["format"], metadata["format_version"]) == ("difffit-adapter", "1")
    assert metadata["base_model"] == "tiny"
    assert metadata["base_sha256"] == tiny_base.sha256()
    assert len(metadata["dataset_sha256"]) == 64
    assert metadata["family"] == "dit"
    assert json.loads(metadata["class_names"]) == ["star", "tree"]
    assert json.loads(metadata["config"])["hyperparameters"]["steps"] == 2
    assert str(tiny_base.path) not in "".join(metadata.values())
    required = {"modelspec.sai_model_spec", "modelspec.architecture", "modelspec.implementation", "modelspec.title"}
    assert required <= metadata.keys()


def test_another_base_is_refused(adapter: Path) -> None:
    with pytest.raises(AdapterError, match="use the base it was trained on") as caught:
        check_base(read_adapter(adapter).header, "0" * 64)
    assert caught.value.code == "wrong_base"


@pytest.mark.parametrize("cut", [1, 1000])
def test_a_truncated_file_is_refused(adapter: Path, cut: int) -> None:
    adapter.write_bytes(adapter.read_bytes()[:-cut])
    with pytest.raises(AdapterError, match="not a readable safetensors file"):
        read_adapter(adapter)


@pytest.mark.parametrize("write", [pickle.dump, torch.save])
def test_a_pickle_in_disguise_is_refused(tmp_path: Path, write: Callable[[object, IO[bytes]], None]) -> None:
    path = tmp_path / "adapter.safetensors"
    with path.open("wb") as file:
        write({"weights": [1, 2, 3]}, file)
    with pytest.raises(AdapterError, match="it is a pickle"):
        read_adapter(path)


def test_safetensors_of_something_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(AdapterError, match="not a DiffFit adapter"):
        read_adapter(path)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_value_that_is_no_number_is_refused_by_the_name_of_its_tensor(
    tmp_path: Path, adapter: Path, value: float, tiny_base: BaseModelEntry
) -> None:
    tensors = read_adapter(adapter).tensors
    name = _gamma_names(tensors)[1]
    tensors[name][2] = value
    spec = write_spec_dir(tmp_path / "other", tiny_base, steps=2)
    save_adapter(adapter, tensors, spec, tiny_base.sha256(), "dit", ["star", "tree"], tiny_base.image_size())
    with pytest.raises(AdapterError, match="not finite") as caught:
        read_adapter(adapter)
    assert (caught.value.code, caught.value.param) == ("not_finite", name)


def _gamma_names(tensors: dict[str, torch.Tensor]) -> list[str]:
    return [name for name in tensors if name.endswith("gamma")]


def test_a_missing_scale_factor_is_never_ignored(adapter: Path, tiny_base: BaseModelEntry) -> None:
    _, tensors = read_adapter(adapter)
    del tensors[_gamma_names(tensors)[0]]
    with pytest.raises(AdapterError, match="1 tensors are missing"):
        load_trained(_prepared(tiny_base), tensors)


def test_an_unknown_tensor_is_refused(adapter: Path, tiny_base: BaseModelEntry) -> None:
    _, tensors = read_adapter(adapter)
    with pytest.raises(AdapterError, match="1 are unknown"):
        load_trained(_prepared(tiny_base), tensors | {"extra": torch.zeros(1)})


def test_a_misshapen_tensor_is_refused(adapter: Path, tiny_base: BaseModelEntry) -> None:
    _, tensors = read_adapter(adapter)
    name = _gamma_names(tensors)[0]
    with pytest.raises(AdapterError, match=name):
        load_trained(_prepared(tiny_base), tensors | {name: torch.zeros(3)})


def _prepared(base: BaseModelEntry) -> DiTTransformer2DModel:
    model = load_transformer(base.path)
    replace_class_table(model, base.class_names(), ["star", "tree"])
    prepare(model, DiffFitConfig(type="difffit"))
    return model
