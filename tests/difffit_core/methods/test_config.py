"""What a method's config accepts, which families it fits, and the learning rate that auto means."""

import subprocess
import sys
from typing import Any

import pytest

from difffit_core.errors import SpecError
from difffit_core.methods.config import named_method

METHODS = ["difffit", "bitfit", "full", "lora", "adapter-parallel", "adapter-sequential", "vpt-deep"]


@pytest.mark.parametrize(
    ("method", "unfit"),
    [
        ("difffit", []),
        ("full", []),
        ("lora", []),
        ("adapter-parallel", []),
        ("adapter-sequential", []),
        ("bitfit", ["llama"]),
        ("vpt-deep", ["stable-diffusion", "controlnet", "llama"]),
    ],
)
def test_a_method_says_which_families_it_does_not_fit(method: str, unfit: list[str]) -> None:
    for family in ("dit", "stable-diffusion", "controlnet", "llama"):
        if family not in unfit:
            named_method(method).check_fits(family)
            continue
        with pytest.raises(SpecError, match=method) as refused:
            named_method(method).check_fits(family)
        assert (refused.value.code, refused.value.param) == ("method_does_not_fit", "method.type")


@pytest.mark.parametrize("method", METHODS)
def test_only_full_fine_tuning_learns_at_the_pretraining_rate(method: str) -> None:
    rate = named_method(method).learning_rate(1e-4, "dit")
    assert rate == pytest.approx(1e-4 if method == "full" else 1e-3)


def test_llama_learns_at_its_pretraining_rate() -> None:
    assert named_method("difffit").learning_rate(3e-4, "llama") == pytest.approx(3e-4)


def test_presets_are_ranks_of_lora_and_settings_win() -> None:
    assert named_method("lora-r16").model_dump()["rank"] == 16
    assert named_method("lora-r8").model_dump() == named_method("lora").model_dump()
    assert named_method("lora-r8", {"alpha": 4}).model_dump()["alpha"] == 4


@pytest.mark.parametrize(
    ("method", "settings", "param"),
    [
        ("difffit", {"scale_blocks": -1}, "method.scale_blocks"),
        ("difffit", {"scale_blocks": True}, "method.scale_blocks"),
        ("difffit", {"scale_layers": []}, "method.scale_layers"),
        ("difffit", {"biases": "yes"}, "method.biases"),
        ("difffit", {"preset": "paper"}, "method.preset"),
        ("difffit", {"rank": 4}, "method.rank"),
        ("lora", {"rank": 0}, "method.rank"),
        ("lora", {"alpha": float("inf")}, "method.alpha"),
        ("adapter-parallel", {"bottleneck": 0}, "method.bottleneck"),
        ("adapter-parallel", {"scale": 0}, "method.scale"),
        ("vpt-deep", {"tokens": 1.5}, "method.tokens"),
        ("dreambooth", {}, "method.type"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(method: str, settings: dict[str, Any], param: str) -> None:
    with pytest.raises(SpecError) as refused:
        named_method(method, settings)
    assert refused.value.param == param


def test_configs_never_import_torch() -> None:
    code = "import sys, difffit_core.methods.config, difffit_core.families.registry; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
