"""The methods that DiffFit is compared with: what they train, that they start as the base, and that they come back."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from difffit_core.adapters.fitting import load_trained
from difffit_core.errors import SpecError
from difffit_core.methods.config import named_method
from difffit_core.methods.injection import prepare, trained_parameters
from tests.difffit_core.cases import make_case
from tests.tiny_models import tiny_controlnet, tiny_dit, tiny_llama, tiny_unet

NEUTRAL = [  # methods that change nothing before they are trained, and the families they fit
    (method, family)
    for method in ("bitfit", "full", "lora", "adapter-parallel", "adapter-sequential")
    for family in ("dit", "unet", "controlnet", "llama", "text-encoder")
    if (method, family) != ("bitfit", "llama")
]
EVERYWHERE = [*NEUTRAL, ("vpt-deep", "dit")]


def prepared(method: str, family: str) -> tuple[Any, Any]:
    """The case of the family, and its model with the method put in."""
    case = make_case(family)
    model = copy.deepcopy(case.model)
    prepare(model, fitting(method))
    return case, model


def fitting(method: str) -> Any:
    """The method's config for the tiny models, which have four blocks."""
    return named_method(method, {"blocks": 3, "tokens": 2} if method == "vpt-deep" else {})


@pytest.mark.parametrize(("method", "family"), NEUTRAL)
def test_a_method_starts_as_the_base(method: str, family: str) -> None:
    case, model = prepared(method, family)
    torch.testing.assert_close(case.answer(model), case.answer(case.model), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("method", "family"), EVERYWHERE)
def test_what_was_trained_comes_back_by_name(method: str, family: str) -> None:
    case, model = prepared(method, family)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in trained_parameters(model).values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    answer = case.answer(model)
    assert not torch.allclose(answer, case.answer(case.model), atol=1e-4)
    tensors: dict[str, Tensor] = {name: p.detach().clone() for name, p in trained_parameters(model).items()}
    _, fresh = prepared(method, family)
    load_trained(fresh, tensors)
    assert torch.equal(case.answer(fresh), answer)


@pytest.mark.parametrize(("method", "family"), EVERYWHERE)
def test_exactly_the_marked_parameters_get_gradients(method: str, family: str) -> None:
    case = make_case(family)
    preparation = prepare(case.model, fitting(method))
    assert preparation.kinds.keys() == trained_parameters(case.model).keys()
    case.answer(case.model).square().sum().backward()
    assert {n for n, p in case.model.named_parameters() if p.grad is not None} <= preparation.kinds.keys()


@pytest.mark.parametrize("method", ["lora", "adapter-parallel", "vpt-deep"])
def test_new_parameters_start_alike_whatever_was_drawn_before(method: str) -> None:
    states = []
    for seed in (1, 2):
        model = tiny_dit()
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        prepare(model, fitting(method))
        assert torch.equal(torch.get_rng_state(), before)
        states.append(trained_parameters(model))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("method", ["bitfit", "lora", "adapter-parallel", "adapter-sequential", "vpt-deep", "full"])
def test_every_method_trains_the_class_table_once(method: str) -> None:
    preparation = prepare(tiny_dit(), fitting(method))
    assert list(preparation.kinds.values()).count("class_table") == 1


@pytest.mark.parametrize("method", ["bitfit", "lora", "adapter-parallel", "adapter-sequential"])
def test_every_method_trains_the_zero_convolutions_of_a_controlnet(method: str) -> None:
    preparation = prepare(tiny_controlnet(), fitting(method))
    whole = {name for name, kind in preparation.kinds.items() if kind == "weight"}
    assert {name.split(".")[0] for name in whole} == {"controlnet_down_blocks", "controlnet_mid_block"}


def test_lora_on_a_dit_is_lora_on_the_fused_query_key_and_value() -> None:
    model = tiny_dit()
    attention = model.transformer_blocks[0].attn1
    x = torch.randn(2, 5, 16)
    fused = torch.cat([getattr(attention, part).weight for part in ("to_q", "to_k", "to_v")])  # [3 D, D]
    offset = torch.cat([getattr(attention, part).bias for part in ("to_q", "to_k", "to_v")])
    prepare(model, named_method("lora", {"rank": 3, "alpha": 6}))
    layers = [attention.to_q, attention.to_k, attention.to_v]
    down = layers[0].lora_A["default"].weight  # [r, D]
    assert all(layer.lora_A["default"].weight is down for layer in layers)
    for layer in layers:
        nn.init.normal_(layer.lora_B["default"].weight)
    up = torch.cat([layer.lora_B["default"].weight for layer in layers])  # [3 D, r]
    expected = x @ (fused + 2 * up @ down).T + offset
    torch.testing.assert_close(torch.cat([layer(x) for layer in layers], dim=-1), expected, atol=1e-5, rtol=1e-5)


def test_a_cross_attention_shares_a_down_matrix_between_key_and_value_only() -> None:
    model = tiny_unet()
    prepare(model, named_method("lora", {"fused": True}))
    for path, module in model.named_modules():
        if path.endswith((".attn1", ".attn2")):
            assert module.to_k.lora_A is module.to_v.lora_A
            assert (module.to_q.lora_A is module.to_k.lora_A) == path.endswith(".attn1")


def test_lora_stands_where_it_is_told_to() -> None:
    model = tiny_llama()
    names = prepare(model, named_method("lora", {"layers": ["mlp.down_proj", "layers.0.self_attn.q_proj"]})).kinds
    assert {name.split(".lora_")[0].removeprefix("model.layers.") for name in names} == {
        "0.self_attn.q_proj",
        *(f"{layer}.mlp.down_proj" for layer in range(4)),
    }


def test_adapters_stand_beside_or_behind_the_mlp() -> None:
    x = torch.randn(2, 5, 16)
    for method in ("adapter-parallel", "adapter-sequential"):
        model = tiny_dit()
        mlp = model.transformer_blocks[0].ff
        plain = mlp(x)
        prepare(model, named_method(method, {"bottleneck": 4}))
        nn.init.normal_(mlp.adapter.up.weight)
        reads = x if method == "adapter-parallel" else plain
        scale = 0.1 if method == "adapter-parallel" else 1.0
        expected = plain + scale * mlp.adapter.up(mlp.adapter.down(reads).relu())
        torch.testing.assert_close(mlp(x), expected)


def test_trained_tokens_are_seen_by_their_block_and_dropped_behind_it() -> None:
    case, model = prepared("vpt-deep", "dit")
    assert [hasattr(block, "prompt") for block in model.transformer_blocks] == [True, True, True, False]
    answer = case.answer(model)
    assert answer.shape == case.answer(case.model).shape
    with torch.no_grad():
        model.transformer_blocks[2].prompt.add_(1)
    assert not torch.allclose(case.answer(model), answer)


@pytest.mark.parametrize(
    ("method", "settings", "model", "param"),
    [
        ("vpt-deep", {"blocks": 9}, tiny_dit(), "method.blocks"),
        ("vpt-deep", {}, tiny_unet(), "method.type"),
        ("vpt-deep", {}, nn.Linear(2, 2), "method.type"),
        ("bitfit", {}, tiny_llama(), "method.type"),
        ("bitfit", {}, nn.Linear(2, 2, bias=False), "method"),
        ("adapter-parallel", {}, nn.Linear(2, 2), "method.type"),
        ("lora", {}, nn.Sequential(nn.Linear(2, 2)), "method.layers"),
        ("lora", {"layers": ["attn1.to_z"]}, tiny_dit(), "method.layers"),
        ("lora", {"layers": ["ff"]}, tiny_dit(), "method.layers"),
    ],
)
def test_a_method_that_does_not_fit_is_refused(method: str, settings: dict[str, Any], model: nn.Module, param: str) -> None:
    with pytest.raises(SpecError) as refused:
        prepare(model, named_method(method, settings))
    assert refused.value.param == param
