"""What DiffFit trains in a UNet, a ControlNet, a Llama and an unknown model, by the paper's setting and by every knob."""

from collections import Counter
from random import Random
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model, T5Config, T5EncoderModel

from difffit_core.errors import SpecError
from difffit_core.methods.config import named_method
from difffit_core.methods.difffit.layer import ScaledConv2d, ScaledLinear
from difffit_core.methods.injection import Preparation, prepare, trained_parameters
from tests.difffit_core.cases import make_case
from tests.tiny_models import tiny_controlnet, tiny_dit, tiny_llama, tiny_text_encoder, tiny_unet

FAMILIES = ["dit", "dit-affine", "unet", "controlnet", "pixart", "llama", "llama-tied", "text-encoder"]


def difffit(model: nn.Module, **settings: Any) -> Preparation:
    return prepare(model, named_method("difffit", settings))


def scaled(preparation: Preparation) -> list[str]:
    """The names of the scale factors."""
    return [name for name, kind in preparation.kinds.items() if kind == "scale"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("preset", ["auto", "attention", "branches", "layers"])
def test_a_prepared_model_computes_what_the_base_does(family: str, preset: str) -> None:
    case = make_case(family)
    before = case.answer(case.model)
    difffit(case.model, preset=preset, new_biases="all")
    torch.testing.assert_close(case.answer(case.model), before, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("preset", ["auto", "layers"])
def test_exactly_what_is_marked_gets_a_gradient_where_the_output_depends_on_it(family: str, preset: str) -> None:
    case = make_case(family)
    preparation = difffit(case.model, preset=preset)
    assert preparation.kinds.keys() == trained_parameters(case.model).keys()
    case.answer(case.model).square().sum().backward()
    with_gradient = {name for name, p in case.model.named_parameters() if p.grad is not None}
    assert with_gradient <= preparation.kinds.keys()
    assert len(with_gradient) > 0.9 * len(preparation.kinds)


KNOBS: dict[str, list[Any]] = {
    "preset": ["auto", "attention", "branches", "layers"],
    "scale_blocks": ["auto", 0, 1, 2],
    "scale_layers": ["auto", "none", "attention", "all"],
    "branch_scales": ["auto", True, False],
    "norms": ["auto", "none", "layer", "all"],
    "class_table": ["auto", False],
    "new_biases": ["auto", "none", "attention", "all"],
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", range(5))
def test_whatever_is_set_the_base_keeps_its_names_and_numbers_and_computes_the_same(family: str, seed: int) -> None:
    random = Random(f"{family}/{seed}")
    settings = {name: random.choice(values) for name, values in KNOBS.items()}
    case = make_case(family)
    before = {name: tensor.clone() for name, tensor in case.model.state_dict().items()}
    answer = case.answer(case.model)
    preparation = difffit(case.model, **settings | ({"new_biases": "attention"} if "llama" in family else {}))
    after = case.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert preparation.kinds.keys() == trained_parameters(case.model).keys()
    assert {name for name in preparation.kinds if name not in before} == {
        name for name, _ in case.model.named_parameters() if name not in before
    }
    torch.testing.assert_close(case.answer(case.model), answer, atol=1e-6, rtol=1e-5)


def test_a_unet_trains_biases_layer_norms_and_scales_of_its_attentions_but_no_group_norm_weights() -> None:
    model = tiny_unet()
    preparation = difffit(model)
    norms = {name for name, kind in preparation.kinds.items() if kind == "norm" and name.endswith(".weight")}
    assert norms == {f"{path}.weight" for path, module in model.named_modules() if isinstance(module, nn.LayerNorm)}
    biases = {name for name, _ in model.named_parameters() if name.endswith(".bias")}
    assert biases <= preparation.kinds.keys()
    assert {name.split(".attn")[1][1:] for name in scaled(preparation)} == {
        f".{part}.gamma" for part in ("to_q", "to_k", "to_v", "to_out.0")
    }
    assert set(preparation.kinds.values()) == {"bias", "norm", "scale"}


def test_the_branches_of_a_unet_get_six_scales_an_attention_one_of_them_on_a_convolution() -> None:
    model = tiny_unet()
    preparation = difffit(model, preset="branches")
    for path, module in model.named_modules():
        if type(module).__name__ == "Transformer2DModel":
            width = module.proj_out.out_channels
            own = [trained_parameters(model)[name] for name in scaled(preparation) if name.startswith(f"{path}.")]
            assert sum(p.numel() for p in own) == 12 * width  # two attentions
            assert isinstance(module.proj_out, ScaledConv2d)
            assert module.proj_out.scale_names == ("gamma_branch",)
    assert all(
        f"{path}.weight" in preparation.kinds for path, module in model.named_modules() if isinstance(module, nn.GroupNorm)
    )


def test_a_controlnet_trains_its_zero_convolutions_whole_and_freezes_the_copy() -> None:
    model = tiny_controlnet()
    preparation = difffit(model)
    whole = {name for name, kind in preparation.kinds.items() if kind == "weight"}
    zero = {name for name, _ in model.named_parameters() if name.startswith(("controlnet_down_blocks", "controlnet_mid_block"))}
    assert whole == zero
    matrices = {name for name, p in model.named_parameters() if p.ndim > 1} - zero
    assert not matrices & preparation.kinds.keys()
    plain = [
        p for p, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d) and f"{p}.gamma" not in preparation.kinds
    ]
    assert {f"{path}.weight" for path in plain} == {name for name in zero if name.endswith("weight")}


def test_a_llama_without_any_bias_gets_new_ones_in_all_layers_and_scales_in_the_first() -> None:
    model = tiny_llama(layers=32)
    assert not any("bias" in name for name, _ in model.named_parameters())
    preparation = difffit(model)
    layers = {
        kind: Counter(int(n.split(".")[2]) for n, k in preparation.kinds.items() if k == kind) for kind in ("bias", "scale")
    }
    assert layers["bias"] == Counter(dict.fromkeys(range(32), 4))
    assert layers["scale"] == Counter(dict.fromkeys(range(14), 4))
    assert all(torch.count_nonzero(p) == 0 for name, p in model.named_parameters() if name.endswith("bias"))
    assert isinstance(model.model.layers[0].self_attn.k_proj, ScaledLinear)
    assert model.model.layers[0].self_attn.k_proj.gamma.shape == (8,)  # one key-value head of two query heads


@pytest.mark.parametrize(("depth", "scaled_layers"), [(1, 1), (2, 1), (4, 1), (16, 7), (32, 14), (40, 17)])
def test_a_llama_of_another_depth_has_scales_in_the_same_share_of_its_layers(depth: int, scaled_layers: int) -> None:
    assert len(scaled(difffit(tiny_llama(layers=depth)))) == 4 * scaled_layers


def test_an_unknown_model_is_treated_by_module_type_and_says_what_was_chosen() -> None:
    preparation = difffit(tiny_text_encoder())
    assert preparation.family == "generic"
    groups = {(kind, name): len(members) for (kind, name), members in preparation.groups()}
    assert groups["scale", "encoder.layers.*.mlp.fc1.gamma"] == 1  # the first of two layers
    assert groups["bias", "encoder.layers.*.mlp.fc1.bias"] == 2
    assert groups["norm", "final_layer_norm.weight"] == 1
    assert not any("embedding" in name for name in preparation.kinds)


@pytest.mark.parametrize(
    ("model", "kinds"),
    [
        (
            T5EncoderModel(T5Config(d_model=8, d_kv=4, d_ff=16, num_layers=2, num_heads=2, vocab_size=9)),
            {"scale": 6, "norm": 5},
        ),
        (
            BertModel(
                BertConfig(hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, vocab_size=9)
            ),
            {"scale": 6, "bias": 13, "norm": 10},
        ),
        (GPT2Model(GPT2Config(n_embd=8, n_layer=2, n_head=2, vocab_size=9)), {"bias": 8, "norm": 10}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_norms_biases_and_blocks_of_other_libraries_are_known_by_their_types(model: nn.Module, kinds: dict[str, int]) -> None:
    assert Counter(difffit(model).kinds.values()) == kinds


def test_a_model_without_blocks_carries_scales_everywhere() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(4, 2))
    assert scaled(difffit(model)) == ["0.gamma", "3.gamma"]
    with pytest.raises(SpecError, match="no blocks"):
        difffit(nn.Sequential(nn.Linear(2, 2)), scale_blocks=1)


def test_every_knob_turns_what_it_says() -> None:
    def kinds(model: nn.Module, **settings: Any) -> Counter[str]:
        return Counter(difffit(model, **settings).kinds.values())

    plain = kinds(tiny_dit())
    assert kinds(tiny_dit(), biases=False) == plain - Counter({"bias": plain["bias"]})
    assert kinds(tiny_dit(), class_table=False) == plain - Counter({"class_table": 1})
    assert kinds(tiny_dit(), branch_scales=False) == plain - Counter({"scale": 4})
    assert kinds(tiny_dit(), scale_layers="none", branch_scales=False)["scale"] == 0
    assert kinds(tiny_dit(), scale_blocks=4)["scale"] == 2 * plain["scale"]
    assert kinds(tiny_dit(), scale_layers=["attn1.to_q", "proj_out_2"], branch_scales=False)["scale"] == 2 + 1
    assert kinds(tiny_dit(), train_modules=["proj_out_1"])["weight"] == 2
    affine = kinds(tiny_dit(affine_norms=True))
    assert affine["norm"] == 2 * 4
    assert kinds(tiny_dit(affine_norms=True), norms="none")["norm"] == 4  # a norm's bias is a bias still
    assert kinds(tiny_dit(affine_norms=True), norms="none", biases=False)["norm"] == 0
    unet = tiny_unet()
    layer_norms = sum(isinstance(m, nn.LayerNorm) for m in unet.modules())
    group_norms = sum(isinstance(m, nn.GroupNorm) for m in unet.modules())
    assert kinds(unet, norms="all", biases=False)["norm"] == 2 * (layer_norms + group_norms)
    assert kinds(tiny_llama(), new_biases="none")["bias"] == 0
    assert kinds(tiny_llama(), new_biases="all")["bias"] == 4 * 7 + 1
    assert kinds(tiny_llama(), norms="layer")["norm"] == 2 * 4 + 1


@pytest.mark.parametrize(
    ("settings", "param", "named"),
    [
        ({"scale_blocks": 5}, "method.scale_blocks", "transformer_blocks.3"),
        ({"scale_layers": ["attn1.to_qq"]}, "method.scale_layers", "attn1.to_q"),
        ({"scale_layers": ["attn1"]}, "method.scale_layers", "transformer_blocks.0.attn1 is a Attention"),
        ({"scale_layers": ["transformer_blocks.3.attn1.to_q"]}, "method.scale_layers", "transformer_blocks.3.attn1.to_q"),
        ({"train_modules": ["proj_out_9"]}, "method.train_modules", "proj_out_9"),
    ],
)
def test_a_layer_that_does_not_exist_is_refused_by_name(settings: dict[str, Any], param: str, named: str) -> None:
    with pytest.raises(SpecError, match=named) as refused:
        difffit(tiny_dit(), **settings)
    assert (refused.value.code, refused.value.param) == ("unknown_module", param)


def test_a_class_table_that_does_not_exist_is_refused() -> None:
    with pytest.raises(SpecError, match="UNet2DConditionModel") as refused:
        difffit(tiny_unet(), class_table=True)
    assert refused.value.param == "method.class_table"


def test_settings_that_train_nothing_are_refused() -> None:
    with pytest.raises(SpecError, match="LlamaForCausalLM") as refused:
        difffit(tiny_llama(), scale_layers="none", new_biases="none")
    assert refused.value.code == "nothing_to_train"


def test_a_module_that_stands_in_two_places_is_scaled_in_both() -> None:
    shared = nn.Linear(3, 3)
    model = nn.ModuleDict({"a": nn.Sequential(shared), "b": nn.Sequential(shared)})
    preparation = difffit(model)
    assert list(preparation.kinds) == ["a.0.bias", "a.0.gamma"]
    assert model["a"][0] is model["b"][0]  # type: ignore[index]
    assert isinstance(model["b"][0], ScaledLinear)  # type: ignore[index]


def test_a_dit_whose_copies_are_not_tied_is_tied_first() -> None:
    model = tiny_dit()
    assert sum("embedding_table" in name for name, _ in model.named_parameters()) == 4
    preparation = difffit(model)
    assert list(preparation.kinds.values()).count("class_table") == 1
