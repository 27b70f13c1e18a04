"""The portability proof: stock diffusers, transformers and PEFT give the trained model's outputs, without a line of ours."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from difffit_core.adapters.export.merged import export_merged
from difffit_core.adapters.export.peft import export_peft
from difffit_core.adapters.fitting import inject
from difffit_core.spec.catalog import WEIGHTS_FOLDER
from tests.difffit_core.adapters.export.bases import of_base, write_base
from tests.difffit_core.cases import make_case

METHODS: dict[str, dict[str, Any]] = {
    "difffit": {"type": "difffit"},
    "bitfit": {"type": "bitfit"},
    "lora": {"type": "lora"},
    "full": {"type": "full"},
    "difffit on all layers": {"type": "difffit", "preset": "layers"},
    "lora on a tied layer": {"type": "lora", "layers": ["timestep_embedder.linear_1", "attn1.to_q"]},
}
CASES = [(family, "difffit") for family in ("dit", "unet", "controlnet", "pixart", "llama", "llama-tied")]
CASES += [("dit", method) for method in METHODS if method != "difffit"]
CASES += [("unet", "difffit on all layers"), ("unet", "lora"), ("llama", "lora"), ("llama-tied", "full")]
NO_FORM = ("full", "peft")  # PEFT holds no whole models
NEW_CLASSES = ["star", "tree"]  # two where the base has three: its null class has the label 3, the adapter's own has 2


@pytest.fixture(scope="module")
def differences(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """The largest difference of every case, computed in a process that has not loaded this project."""
    root = tmp_path_factory.mktemp("exports")
    cases = [entry for family, method in CASES for entry in export(family, method, root / family / method)]
    (root / "manifest.json").write_text(json.dumps(cases))
    script = Path(__file__).with_name("stock.py")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run = subprocess.run(
        [sys.executable, str(script), str(root / "manifest.json")],
        cwd=root,
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found: dict[str, float] = json.loads(run.stdout.splitlines()[-1])
    return found


def export(family: str, method: str, folder: Path) -> list[dict[str, Any]]:
    """Export one adapter in both forms; returns what to run, for `stock.py`."""
    case = make_case(family)
    base = write_base(family, case, folder / "base")
    adapter = of_base(case.adapter(class_names=NEW_CLASSES if case.names else None, **METHODS[method]), base)
    trained = copy.deepcopy(case.model)
    inject(trained, adapter, case.names)
    labels = {"class_labels": torch.tensor([0, 1, 2, 0, 1])} if case.names else {}
    inputs = case.inputs | labels
    with torch.no_grad():
        expected = case.flatten(trained(**inputs, return_dict=False))
    entry: dict[str, Any] = {"family": family.removesuffix("-tied"), "peft": None}

    export_merged(base, adapter, folder / "merged")
    save_file({**inputs, "expected": expected}, folder / "merged.safetensors")
    network = folder / "merged" / WEIGHTS_FOLDER[base.family]
    entries = [
        entry | {"name": f"{family} {method} merged", "network": str(network), "tensors": str(folder / "merged.safetensors")}
    ]
    if (method, "peft") == NO_FORM:
        return entries

    export_peft(base, adapter, folder / "peft")
    if case.names:
        inputs = inputs | {"class_labels": torch.where(labels["class_labels"] == 2, 3, labels["class_labels"])}
    save_file({**inputs, "expected": expected}, folder / "peft.safetensors")
    network = base.path / WEIGHTS_FOLDER[base.family]
    loaded = {"network": str(network), "peft": str(folder / "peft")}
    return [*entries, entry | loaded | {"name": f"{family} {method} peft", "tensors": str(folder / "peft.safetensors")}]


@pytest.mark.parametrize(
    ("family", "method", "form"), [(*case, form) for case in CASES for form in ("merged", "peft") if (case[1], form) != NO_FORM]
)
def test_stock_libraries_give_the_trained_models_outputs(
    differences: dict[str, float], family: str, method: str, form: str
) -> None:
    assert differences[f"{family} {method} {form}"] < 1e-5
