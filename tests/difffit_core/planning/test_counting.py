"""The counts of the paper and of published models, on models without weights: every number of docs/method.md."""

import fnmatch
import json
import tomllib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from difffit_core.adapters.subject import SubjectEmbedding
from difffit_core.errors import ModelError, SpecError
from difffit_core.methods.config import named_method
from difffit_core.methods.injection import count_parameters, prepare
from difffit_core.methods.structure import is_norm, replace_modules
from difffit_core.planning.counting import ARCHITECTURES, PACKAGE, architectures, build, count, main
from tests.tiny_models import write_tiny_llama

DIT, UNET, CONTROLNET, LLAMA = "dit-xl-2-256", "sd-1.5-unet", "sd-1.5-controlnet", "llama-7b"
PIXART = "pixart-xl-2-512"
ZERO_CONVOLUTIONS = 11_479_680


@pytest.mark.parametrize("model", [DIT, "dit-xl-2-512"])
@pytest.mark.parametrize(
    ("method", "classes", "trained"),
    [
        ("full", 101, 673_799_072),
        ("bitfit", 101, 607_136),
        ("lora-r8", 101, 1_149_696),
        ("lora-r16", 101, 2_181_888),
        ("adapter-parallel", 101, 4_280_320),
        ("adapter-sequential", 101, 4_280_320),
        ("vpt-deep", 101, 2_816_672),
        ("difffit", 101, 703_904),
        ("difffit", 1000, 1_739_552),
    ],
)
def test_every_method_trains_the_published_number_of_a_dit_xl(model: str, method: str, classes: int, trained: int) -> None:
    counted = count(model, named_method(method), classes)
    assert counted.trained == trained
    assert counted.classes == classes
    assert counted.total == 673_799_072 + (classes - 101) * 1152


def test_the_count_of_a_dit_xl_is_told_by_kind() -> None:
    counted = count(DIT, named_method("difffit"), 101)
    assert counted.kinds == {"bias": 489_632, "class_table": 102 * 1152, "scale": 6 * 1152 * 14}
    assert counted.percent == pytest.approx(100 * 703_904 / 673_799_072, abs=1e-4)
    assert counted.adapter_bytes == 4 * 703_904
    gammas = {group.name: group.tensors for group in counted.groups if group.kind == "scale"}
    assert gammas["transformer_blocks.*.attn1.to_q.gamma"] == 14
    assert sum(group.parameters for group in counted.groups) == counted.trained


def test_a_dit_xl_whose_norms_have_weights_trains_the_number_of_the_paper() -> None:
    with torch.device("meta"):
        model = build(DIT)
        affine = {m: nn.LayerNorm(1152) for m in model.modules() if is_norm(m)}
        replace_modules(model, affine)
        assert len(affine) == 57
        prepare(model, named_method("difffit"))
    imagenet, food = 1001 * 1152, 102 * 1152
    assert count_parameters(model)[0] - imagenet + food == 835_232


@pytest.mark.parametrize(
    ("settings", "trained"),
    [
        ({}, 480_964),
        ({"preset": "attention"}, 480_964),
        ({"preset": "branches"}, 593_604),
        ({"preset": "attention", "norms": "none"}, 480_964 - 37_440),  # the biases of norms are biases still
    ],
)
def test_dreambooth_on_stable_diffusion(settings: dict[str, Any], trained: int) -> None:
    assert count(UNET, named_method("difffit", settings)).trained == trained


def test_a_subject_token_is_768_more_and_lora_of_rank_4_the_yardstick() -> None:
    lora = count(UNET, named_method("lora", {"rank": 4})).trained
    assert lora == 797_184
    with torch.device("meta"):
        text_encoder = build("sd-1.5-text-encoder")
        table = text_encoder.get_input_embeddings()  # type: ignore[operator]
        word = SubjectEmbedding(table, torch.empty(table.embedding_dim)).subject
    totals = [count(UNET, named_method("difffit", {"preset": preset})).trained for preset in ("attention", "branches")]
    assert [total + word.numel() for total in totals] == [481_732, 594_372]
    assert 1 - 593_604 / lora == pytest.approx(0.255, abs=0.001)  # the paper's "about 26 %"
    assert 1 - 480_964 / lora == pytest.approx(0.397, abs=0.001)


def test_controlnet_and_what_it_steers() -> None:
    full = named_method("full")
    controlnet = count(CONTROLNET, full).trained
    assert controlnet == 361_279_120
    assert controlnet + count(UNET, full).trained + count("sd-1.5-text-encoder", full).trained == 1_343_860_564


@pytest.mark.parametrize(
    ("settings", "trained"),
    [({}, 11_778_688), ({"scale_layers": "attention"}, 11_678_624), ({"preset": "branches"}, 11_742_944)],
)
def test_a_controlnet_trains_its_zero_convolutions_its_biases_and_scales(settings: dict[str, Any], trained: int) -> None:
    counted = count(CONTROLNET, named_method("difffit", settings))
    assert counted.kinds["weight"] == ZERO_CONVOLUTIONS
    assert counted.trained == trained


def test_pixart_is_fitted_as_a_dit_with_two_attentions_a_block() -> None:
    assert count(PIXART, named_method("full")).trained == 610_856_096
    counted = count(PIXART, named_method("difffit"))
    assert counted.kinds == {"bias": 432_032, "scale": 11 * 1152 * 14}
    scaled = {group.name.removeprefix("transformer_blocks.*.") for group in counted.groups if group.kind == "scale"}
    attentions = {f"attn{i}.{part}.gamma" for i in (1, 2) for part in ("to_q", "to_k", "to_v", "to_out.*")}
    assert scaled == attentions | {f"{end}.gamma_branch" for end in ("attn1.to_out.*", "attn2.to_out.*", "ff.net.*")}


def test_llama_7b_gets_biases_in_all_layers_and_scales_in_the_first_14() -> None:
    counted = count(LLAMA, named_method("difffit"))
    assert counted.trained == 753_664
    assert counted.kinds == {"bias": 32 * 4 * 4096, "scale": 14 * 4 * 4096}


def test_the_starter_model_is_counted_from_its_own_folder() -> None:
    counted = count("emoji-dit", named_method("difffit"))
    assert (counted.classes, counted.family) == (99, "dit")
    assert counted.kinds["class_table"] == 100 * 256
    assert counted.trained < counted.total / 100


def test_the_folder_of_a_model_is_counted_too(tmp_path: Path) -> None:
    counted = count(str(write_tiny_llama(tmp_path)), named_method("difffit"))
    assert counted.family == "llama"
    assert counted.trained > 0


def test_a_published_dit_is_known_under_the_older_name_of_its_class(tmp_path: Path) -> None:
    config = json.loads(architectures()[DIT].read_text()) | {"_class_name": "Transformer2DModel"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    counted = count(str(tmp_path), named_method("difffit"), 101)
    assert (counted.family, counted.trained) == ("dit", 703_904)


def test_the_counts_of_the_documentation_are_these() -> None:
    from client.options import json_value  # here: the client is not everywhere where the library is

    text = (Path(__file__).parents[3] / "docs" / "method.md").read_text().partition("\n## Counts\n")[2].partition("\n## ")[0]
    rows = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    assert len(rows) > 15
    for model, words, classes, trained, _ in rows[2:]:
        method, *settings = words.split()
        given = {name: json_value(text) for name, _, text in (setting.partition("=") for setting in settings)}
        counted = count(model, named_method(method, given), int(classes) if classes else None)
        assert f"{counted.trained:,}" == trained, (model, words)


def test_models_and_classes_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    method = named_method("difffit")
    (tmp_path / "config.json").write_text('{"_class_name": "NoSuchModel"}')
    for model in ("dit-xxl", str(tmp_path)):
        with pytest.raises(ModelError) as unknown:
            count(model, method)
        assert unknown.value.param == "model"
    for model, classes in ((DIT, 0), (UNET, 10)):
        with pytest.raises(SpecError) as refused:
            count(model, method, classes)
        assert refused.value.param == "classes"


def test_the_module_prints_one_line_of_json_or_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([DIT, '{"type": "difffit", "scale_blocks": 0}', "--classes", "101"]) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed) == asdict(count(DIT, named_method("difffit", {"scale_blocks": 0}), 101))
    assert printed.count("\n") == 1
    assert main([DIT, "magic"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "unknown_method"


def test_every_architecture_is_in_the_package() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["difffit_core"]
    names = {str(path.relative_to(PACKAGE)) for path in ARCHITECTURES.iterdir()}
    assert names == {n for n in names if any(fnmatch.fnmatch(n, pattern) for pattern in patterns)}
    assert {DIT, "dit-xl-2-512", UNET, CONTROLNET, "sd-1.5-text-encoder", PIXART, LLAMA, "emoji-dit"} == architectures().keys()
