"""Merging: the merged model does what the trained one did, at any strength, and the base returns bit for bit."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from difffit_core.adapters.file import Adapter
from difffit_core.adapters.fitting import inject
from difffit_core.adapters.merging import merge
from difffit_core.errors import AdapterError, SpecError
from difffit_core.families.dit.network import class_embedder
from difffit_core.training.frozen_base import store_base
from tests.difffit_core.adapters.bank.test_bank import assert_same_state
from tests.difffit_core.cases import Case, make_case

FAMILIES = ["dit", "dit-affine", "unet", "controlnet", "pixart", "llama", "llama-tied", "generic"]
METHODS = ["difffit", "bitfit", "full", "lora"]
PAIRS = [
    (family, method) for family in FAMILIES for method in METHODS if not (family.startswith("llama") and method == "bitfit")
]
NEW_CLASSES = ["star", "tree"]


@pytest.fixture(params=FAMILIES)
def case(request: pytest.FixtureRequest) -> Case:
    return make_case(request.param)


def new_classes(case: Case) -> list[str] | None:
    return NEW_CLASSES if case.names else None


@pytest.mark.parametrize(("family", "method"), PAIRS)
def test_the_merged_model_does_what_the_trained_one_does(family: str, method: str, device: torch.device) -> None:
    case = make_case(family).to(device)
    adapter = case.adapter(class_names=new_classes(case), type=method)
    trained = copy.deepcopy(case.model)
    inject(trained, adapter, case.names)
    before = case.answer(case.model)
    merge(case.model, adapter, base_names=case.names)
    if case.names:
        case.inputs["class_labels"] = torch.tensor([0, 1, 2, 0, 1], device=device)
    merged = case.answer(case.model)
    torch.testing.assert_close(merged, case.answer(trained), atol=1e-5, rtol=0)
    assert (merged - before).abs().max() > 1e-3
    assert not any(name.rpartition(".")[2].startswith(("gamma", "lora_")) for name, _ in case.model.named_parameters())


@pytest.mark.parametrize(("family", "method"), PAIRS)
def test_unmerging_restores_the_base_bit_for_bit(family: str, method: str, device: torch.device) -> None:
    case = make_case(family).to(device)
    state, output = copy.deepcopy(case.model.state_dict()), case.answer(case.model)
    parameters = list(case.model.parameters())
    merged = merge(case.model, case.adapter(class_names=new_classes(case), type=method), 1.3, base_names=case.names)
    merged.unmerge()
    assert_same_state(case.model.state_dict(), state)
    assert all(now is then for now, then in zip(case.model.parameters(), parameters, strict=True))
    assert torch.equal(case.answer(case.model), output)


@pytest.mark.parametrize("method", METHODS)
def test_an_adapter_that_is_read_on_the_cpu_is_merged_where_the_base_is(method: str) -> None:
    """On any device: of this one tensors have only their shapes, and it mixes with the CPU as little as a GPU does."""
    case = make_case("dit")
    adapter = case.adapter(class_names=NEW_CLASSES, type=method)
    case.model.to("meta")
    merge(case.model, adapter, base_names=case.names)
    assert {parameter.device.type for parameter in case.model.parameters()} == {"meta"}


def test_a_base_can_be_merged_with_one_adapter_after_another(case: Case) -> None:
    first, second = case.adapter(0), case.adapter(1)
    merge(case.model, first, base_names=case.names).unmerge()
    trained = copy.deepcopy(case.model)
    inject(trained, second, case.names)
    merge(case.model, second, base_names=case.names)
    torch.testing.assert_close(case.answer(case.model), case.answer(trained), atol=1e-5, rtol=0)


def test_at_strength_zero_the_model_is_the_base(case: Case) -> None:
    output = case.answer(case.model)
    merge(case.model, case.adapter(), 0, base_names=case.names)
    assert torch.equal(case.answer(case.model), output)


@pytest.mark.parametrize("strength", [0.0, 0.25, 1.0, 2.0])
def test_strength_moves_every_number_on_the_line_from_the_base_through_the_adapter(case: Case, strength: float) -> None:
    adapter, base = case.adapter(), copy.deepcopy(case.model)
    moved = {name: _moved(base, name, tensor, strength) for name, tensor in adapter.tensors.items()}
    inject(base, Adapter(adapter.header, moved), case.names)
    merge(case.model, adapter, strength, base_names=case.names)
    torch.testing.assert_close(case.answer(case.model), case.answer(base), atol=1e-5, rtol=0)


def _moved(base: nn.Module, name: str, trained: torch.Tensor, strength: float) -> torch.Tensor:
    path, _, own = name.rpartition(".")
    start = 1.0 if own.startswith("gamma") else getattr(base.get_submodule(path), own)
    start = 0.0 if start is None else start
    return (start + strength * (trained - start)).detach()


@pytest.mark.parametrize("strength", [-0.1, 2.1, float("nan"), float("inf")])
def test_a_strength_outside_zero_to_two_is_refused(strength: float) -> None:
    case = make_case("dit")
    with pytest.raises(SpecError, match="0 to 2") as caught:
        merge(case.model, case.adapter(), strength, base_names=case.names)
    assert (caught.value.code, caught.value.param) == ("invalid_strength", "adapter_strength")


def test_rows_that_name_nothing_come_back_when_the_adapter_goes() -> None:
    """An adapter for the base's own classes is of their rows alone, however long the base's table is."""
    case = make_case("dit-spare")
    model: Any = case.model
    table = class_embedder(model).embedding_table.weight
    adapter = case.adapter()
    merged = merge(model, adapter, 0, base_names=case.names)
    assert torch.equal(class_embedder(model).embedding_table.weight, table[[0, 1, 2, 1000]])
    assert adapter.tensors["transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight"].shape == (4, 16)
    merged.unmerge()
    assert class_embedder(model).embedding_table.weight is table


def test_a_new_label_space_comes_with_the_adapter_and_goes_with_it() -> None:
    case = make_case("dit")
    model: Any = case.model
    table = class_embedder(model).embedding_table.weight
    merged = merge(model, case.adapter(class_names=["star", "x", "y", "z"]), 0, base_names=case.names)
    assert (len(class_embedder(model).embedding_table.weight), model.config.num_embeds_ada_norm) == (5, 4)
    assert torch.equal(class_embedder(model).embedding_table.weight[0], table[case.names.index("star")])
    merged.unmerge()
    assert class_embedder(model).embedding_table.weight is table
    assert (class_embedder(model).num_classes, model.config.num_embeds_ada_norm) == (3, 3)


def test_tied_tables_stay_tied() -> None:
    case = make_case("llama-tied")
    model: Any = case.model
    merge(model, case.adapter(type="full"))
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_linears_without_bias_get_one_and_lose_it() -> None:
    case = make_case("llama")
    merged = merge(case.model, case.adapter())
    assert case.model.get_submodule("model.layers.3.self_attn.q_proj").bias is not None
    merged.unmerge()
    assert not any(name.endswith("bias") for name, _ in case.model.named_parameters())


def test_a_second_merge_is_refused_by_the_name_of_a_module_until_the_first_is_taken_out(case: Case) -> None:
    merged = merge(case.model, case.adapter(), base_names=case.names)
    before = case.answer(case.model)
    with pytest.raises(AdapterError, match="unmerge") as caught:
        merge(case.model, case.adapter(1), base_names=case.names)
    assert caught.value.code == "already_merged"
    assert caught.value.param in dict(case.model.named_modules())
    assert torch.equal(case.answer(case.model), before)
    merged.unmerge()
    merge(case.model, case.adapter(1), base_names=case.names)


def test_a_model_prepared_for_training_is_refused() -> None:
    case = make_case("dit")
    adapter = case.adapter()
    inject(case.model, adapter, case.names)
    with pytest.raises(AdapterError, match="carries an adapter already"):
        merge(case.model, adapter, base_names=case.names)


def test_a_base_in_few_bits_is_refused_by_the_name_of_a_module() -> None:
    case = make_case("dit")
    adapter = case.adapter()
    store_base(case.model.requires_grad_(False), "int8")
    with pytest.raises(AdapterError, match="few bits") as caught:
        merge(case.model, adapter, base_names=case.names)
    assert caught.value.code == "packed_base"
    assert caught.value.param in dict(case.model.named_modules())


@pytest.mark.parametrize(
    "method", [{"type": "adapter-parallel"}, {"type": "adapter-sequential"}, {"type": "vpt-deep", "blocks": 2}]
)
def test_a_method_that_adds_modules_is_refused_by_the_name_of_one(method: dict[str, Any]) -> None:
    case = make_case("dit")
    adapter = case.adapter(**method)
    with pytest.raises(AdapterError, match="Apply it unmerged") as caught:
        merge(case.model, adapter, base_names=case.names)
    assert (caught.value.code, caught.value.param in adapter.tensors) == ("not_mergeable", True)


def test_an_adapter_of_another_family_is_refused() -> None:
    with pytest.raises(AdapterError, match="family") as caught:
        merge(make_case("unet").model, make_case("dit").adapter())
    assert caught.value.code == "wrong_family"


@pytest.mark.parametrize("broken", ["missing", "unknown", "misshapen", "not finite"])
def test_a_tensor_that_does_not_fit_is_named_and_nothing_is_changed(case: Case, broken: str) -> None:
    header, tensors = case.adapter()
    name = sorted(tensors)[len(tensors) // 2]
    match broken:
        case "missing":
            del tensors[name]
        case "unknown":
            name = f"{name}.more"
            tensors[name] = torch.zeros(1)
        case "misshapen":
            tensors[name] = torch.zeros(*tensors[name].shape, 2)
        case _:
            tensors[name].view(-1)[0] = torch.nan
    state = copy.deepcopy(case.model.state_dict())
    with pytest.raises(AdapterError) as caught:
        merge(case.model, Adapter(header, tensors), base_names=case.names)
    assert caught.value.param == name
    assert name in caught.value.message
    assert_same_state(case.model.state_dict(), state)
