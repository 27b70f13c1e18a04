"""The PEFT folder: small, with a README that loads it, and what PEFT has no form for."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from peft import PeftModel

from difffit_core.adapters.export.peft import export_peft
from difffit_core.adapters.file import read_adapter
from difffit_core.adapters.fitting import inject
from difffit_core.adapters.subject import text_encoder_with
from difffit_core.errors import AdapterError
from difffit_core.spec.catalog import Source
from difffit_core.tasks.config import DreamBoothConfig
from tests.difffit_core.adapters.export.bases import of_base, write_base
from tests.difffit_core.cases import make_case
from tests.difffit_core.spec_dirs import ADAPTER, CASES, CPU, run_here, write_spec_dir
from tests.difffit_core.spec_dirs import write_base as write_base_of_task


def test_the_folder_holds_no_weight_of_the_base(tmp_path: Path) -> None:
    case = make_case("llama")
    base = write_base("llama", case, tmp_path / "base")
    export_peft(base, of_base(case.adapter(), base), tmp_path / "peft")
    weights = list((tmp_path / "peft").rglob("*.safetensors"))
    assert weights
    assert sum(path.stat().st_size for path in weights) < base.size_bytes() / 4


@pytest.mark.parametrize(("family", "line"), [("dit", "DiTPipeline"), ("llama", "AutoModelForCausalLM.from_pretrained(BASE)")])
def test_the_readme_says_for_which_base_it_is_and_how_to_load_it(tmp_path: Path, family: str, line: str) -> None:
    case = make_case(family)
    base = write_base(family, case, tmp_path / "base")
    export_peft(base, of_base(case.adapter(), base), tmp_path / "peft")
    readme = (tmp_path / "peft" / "README.md").read_text()
    assert base.sha256() in readme
    assert line in readme
    code = readme.split("```python\n")[1].split("```")[0]
    scope = {"BASE": str(base.path), "FOLDER": str(tmp_path / "peft")}
    exec(code, scope)


@pytest.mark.parametrize("family", ["llama", "llama-tied", "unet", "controlnet"])
def test_biases_that_the_base_does_not_have_come_by_the_readmes_lines_and_never_half(tmp_path: Path, family: str) -> None:
    """The folder has no adapter at its root that would load without them and say nothing."""
    case = make_case(family)
    base = write_base(family, case, tmp_path / "base")
    adapter = of_base(case.adapter(type="difffit", new_biases="all"), base)
    export_peft(base, adapter, tmp_path / "peft")
    readme = (tmp_path / "peft" / "README.md").read_text()
    scope: dict[str, Any] = {"BASE": str(base.path), "FOLDER": str(tmp_path / "peft")}
    exec(readme.split("```python\n")[1].split("```")[0], scope)
    model = {"unet": lambda: scope["pipeline"].unet, "controlnet": lambda: scope["controlnet"]}.get(
        family, lambda: scope["model"]
    )()
    with torch.no_grad():
        before = case.answer(case.model)
        inject(case.model, adapter)
        expected = case.answer(case.model)
        assert (expected - before).abs().max() > 1e-3
        torch.testing.assert_close(case.answer(model), expected, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match=r"adapter_config\.json"):
        PeftModel.from_pretrained(case.model, str(tmp_path / "peft"))


def test_a_row_of_zeros_that_carries_a_factor_stays_zero(tmp_path: Path) -> None:
    """DoRA divides by the norm of each row."""
    case = make_case("unet")
    torch.nn.init.zeros_(case.model.get_parameter("mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight")[3])
    base = write_base("unet", case, tmp_path / "base")
    adapter = of_base(case.adapter(), base)
    export_peft(base, adapter, tmp_path / "peft")
    loaded = PeftModel.from_pretrained(UNet2DConditionModel.from_pretrained(base.path / "unet"), str(tmp_path / "peft"))
    inject(case.model, adapter)
    torch.testing.assert_close(case.answer(loaded), case.answer(case.model), atol=1e-5, rtol=0)


def test_a_lora_goes_to_stock_diffusers_as_to_peft(tmp_path: Path) -> None:
    case = make_case("unet")
    base = write_base("unet", case, tmp_path / "base")
    adapter = of_base(case.adapter(type="lora", rank=4, alpha=2.0), base)
    export_peft(base, adapter, tmp_path / "peft")
    pipeline = StableDiffusionPipeline.from_pretrained(base.path)
    with torch.no_grad():
        before = case.answer(pipeline.unet)
        pipeline.load_lora_weights(tmp_path / "peft")
        loaded = PeftModel.from_pretrained(UNet2DConditionModel.from_pretrained(base.path / "unet"), str(tmp_path / "peft"))
        inject(case.model, adapter)
        expected = case.answer(case.model)
        assert (expected - before).abs().max() > 1e-3
        torch.testing.assert_close(case.answer(pipeline.unet), expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(case.answer(loaded), expected, atol=1e-5, rtol=0)


def test_a_lora_of_a_subject_brings_its_word_and_its_text_encoder(tmp_path: Path) -> None:
    """The README's lines alone."""
    base = write_base_of_task(tmp_path / "base", "dreambooth")
    spec = write_spec_dir(tmp_path, base, "lora", task=CASES["dreambooth"][1], steps=2, learning_rate=0.1)
    run_here(tmp_path, spec)
    adapter = read_adapter(tmp_path / ADAPTER)
    export_peft(base, adapter, tmp_path / "peft")
    scope: dict[str, Any] = {"BASE": str(base.path), "FOLDER": str(tmp_path / "peft")}
    exec((tmp_path / "peft" / "README.md").read_text().split("```python\n")[1].split("```")[0], scope)
    assert isinstance(adapter.header.task, DreamBoothConfig)
    prompt, ours = adapter.header.task.prompt, text_encoder_with(adapter, base.path, CPU)
    stock, _ = scope["pipeline"].encode_prompt(prompt, CPU, 1, False)
    with torch.no_grad():
        torch.testing.assert_close(stock, ours.embed([prompt])["text"], atol=1e-5, rtol=0)
        plain, _ = StableDiffusionPipeline.from_pretrained(base.path).encode_prompt("a star", CPU, 1, False)
    assert (stock - plain).abs().max() > 1e-3


@pytest.mark.parametrize("family", ["llama", "unet", "dit"])
def test_the_base_is_named_as_others_find_it(tmp_path: Path, family: str) -> None:
    """By its Hub id and revision, or as the catalog calls it; never by a folder of this machine."""
    case = make_case(family)
    base = write_base(family, case, tmp_path / "base")
    hub = base.model_copy(update={"sources": [Source(hub="org/part", files=[], folder=Path("vae"))]})
    hub.sources.append(Source(hub="org/model", revision="abc", files=["*"]))
    for named, expected in ((base, (base.id, None)), (hub, ("org/model", "abc"))):
        export_peft(named, of_base(case.adapter(), base), tmp_path / str(expected[1]))
        for path in (tmp_path / str(expected[1])).rglob("adapter_config.json"):
            config = json.loads(path.read_text())
            assert (config["base_model_name_or_path"], config["revision"]) == expected
        for path in (tmp_path / str(expected[1])).rglob("*.*"):
            assert str(tmp_path).encode() not in path.read_bytes()


@pytest.mark.parametrize("method", ["full", "adapter-parallel"])
def test_a_method_without_a_form_in_peft_is_refused(tmp_path: Path, method: str) -> None:
    case = make_case("dit")
    base = write_base("dit", case, tmp_path / "base")
    with pytest.raises(AdapterError, match="PEFT has no form") as caught:
        export_peft(base, of_base(case.adapter(type=method), base), tmp_path / "peft")
    assert caught.value.code == "not_exportable"


def test_more_classes_than_the_base_has_are_refused(tmp_path: Path) -> None:
    case = make_case("dit")
    base = write_base("dit", case, tmp_path / "base")
    with pytest.raises(AdapterError, match="4 classes and its base only 3"):
        export_peft(base, of_base(case.adapter(class_names=["v", "x", "y", "z"]), base), tmp_path / "peft")
