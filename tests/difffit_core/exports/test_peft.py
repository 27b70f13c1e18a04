"""The PEFT folder: small, with a README that loads it, and what PEFT has no form for."""

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import PeftModel

from difffit_core.errors import AdapterError
from difffit_core.exports.peft import export_peft
from difffit_core.fitting import inject
from tests.difffit_core.adapters import make_case
from tests.difffit_core.exports.bases import of_base, write_base


def test_the_folder_holds_no_weight_of_the_base(tmp_path: Path) -> None:
    case = make_case("llama")
    base = write_base("llama", case, tmp_path / "base")
    export_peft(base, of_base(case.adapter(), base), tmp_path / "peft")
    assert (tmp_path / "peft" / "adapter_model.safetensors").stat().st_size < (base.size_bytes()) / 4


@pytest.mark.parametrize(("family", "line"), [("dit", "DiTPipeline"), ("llama", "attention_bias=True")])
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
