"""The merged folder: a whole pipeline of stock diffusers with the adapter's labels, and what cannot be exported."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiTPipeline
from transformers import AutoModelForCausalLM

from difffit_core.adapters.export.merged import export_merged
from difffit_core.adapters.file import Adapter
from difffit_core.adapters.fitting import inject
from difffit_core.errors import AdapterError, SpecError
from difffit_core.families.dit.positions import resize
from tests.difffit_core.adapters.export.bases import of_base, write_base
from tests.difffit_core.cases import make_case


def test_the_stock_pipeline_knows_the_adapters_labels_and_guides(tmp_path: Path) -> None:
    case = make_case("dit")
    base = write_base("dit", case, tmp_path / "base")
    export_merged(base, of_base(case.adapter(class_names=["star", "tree"]), base), tmp_path / "merged")
    pipeline = DiTPipeline.from_pretrained(tmp_path / "merged")
    pipeline.set_progress_bar_config(disable=True)
    labels = pipeline.get_label_ids(["tree", "star"])
    assert labels == [1, 0]
    pictures = [
        pipeline(labels, guidance_scale=scale, num_inference_steps=2, generator=torch.manual_seed(0), output_type="np").images
        for scale in (1, 4)
    ]
    assert pictures[0].shape == (2, 16, 16, 3)
    assert abs(pictures[0] - pictures[1]).max() > 1e-3


def test_an_adapter_of_another_resolution_says_how_stock_diffusers_makes_such_pictures(tmp_path: Path) -> None:
    case = make_case("dit")
    base = write_base("dit", case, tmp_path / "base")
    adapter = of_base(case.adapter(), base)
    adapter = Adapter(replace(adapter.header, resolution=32), adapter.tensors)
    export_merged(base, adapter, tmp_path / "merged")
    code = (tmp_path / "merged" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    scope: dict[str, Any] = {"FOLDER": str(tmp_path / "merged")}
    exec(code, scope)
    inject(case.model, adapter, case.names)
    resize(case.model, 16)
    case.inputs["hidden_states"] = torch.randn(len(case.inputs["timestep"]), 4, 16, 16)
    stock = scope["pipeline"].transformer
    assert stock.config.sample_size == 16
    torch.testing.assert_close(case.answer(stock), case.answer(case.model), atol=1e-5, rtol=0)


def test_a_strength_can_be_asked_for(tmp_path: Path) -> None:
    case = make_case("llama")
    base = write_base("llama", case, tmp_path / "base")
    adapter = of_base(case.adapter(), base)
    export_merged(base, adapter, tmp_path / "off", strength=0)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "off")
    torch.testing.assert_close(case.answer(loaded), case.answer(case.model), atol=1e-6, rtol=0)
    with pytest.raises(SpecError, match="0 to 2"):
        export_merged(base, adapter, tmp_path / "more", strength=3)


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    case = make_case("dit")
    base = write_base("dit", case, tmp_path / "base")
    with pytest.raises(AdapterError, match="use the base it was trained on") as caught:
        export_merged(base, case.adapter(), tmp_path / "merged")
    assert caught.value.code == "wrong_base"
    assert not (tmp_path / "merged").exists()


def test_biases_that_no_stock_config_can_ask_for_are_refused_by_name(tmp_path: Path) -> None:
    case = make_case("unet")
    base = write_base("unet", case, tmp_path / "base")
    with pytest.raises(AdapterError, match="stock") as caught:
        export_merged(base, of_base(case.adapter(type="difffit", new_biases="attention"), base), tmp_path / "merged")
    assert caught.value.code == "not_exportable"
    assert str(caught.value.param).endswith("to_k.bias")


def test_biases_outside_of_a_llamas_attentions_are_refused_by_name(tmp_path: Path) -> None:
    case = make_case("llama")
    base = write_base("llama", case, tmp_path / "base")
    with pytest.raises(AdapterError, match="stock") as caught:
        export_merged(base, of_base(case.adapter(type="difffit", new_biases="all"), base), tmp_path / "merged")
    assert caught.value.param == "lm_head.bias"


def test_a_method_that_cannot_be_merged_is_refused(tmp_path: Path) -> None:
    case = make_case("dit")
    base = write_base("dit", case, tmp_path / "base")
    with pytest.raises(AdapterError, match="cannot be merged"):
        export_merged(base, of_base(case.adapter(type="adapter-parallel"), base), tmp_path / "merged")
