"""The bank: a batch with an adapter for each sample gives what each adapter gives alone, served and trained."""

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from difffit_core.adapters.bank.bank import AdapterBank
from difffit_core.adapters.file import Adapter
from difffit_core.adapters.fitting import inject
from difffit_core.errors import AdapterError
from difffit_core.methods.injection import trained_parameters
from tests.difffit_core.cases import BASE_SHA256, BATCH, Case, make_case

FAMILIES = ["dit", "dit-affine", "dit-spare", "unet", "controlnet", "pixart", "llama", "generic"]
MIXED = ["a", None, "b", "a", "c"]


@pytest.fixture(params=FAMILIES)
def case(request: pytest.FixtureRequest) -> Case:
    return make_case(request.param)


def fill_bank(case: Case, **methods: object) -> tuple[AdapterBank, dict[str, Adapter]]:
    """A bank with the adapters a, b and c; on a DiT their label spaces differ."""
    spaces = {"a": None, "b": ["star", "tree"], "c": ["star", "x", "y", "z"]} if case.names else dict.fromkeys("abc")
    adapters = {name: case.adapter(seed, spaces[name], **methods) for seed, name in enumerate("abc")}
    bank = AdapterBank(case.model, BASE_SHA256, case.names)
    for name, adapter in adapters.items():
        bank.add(name, adapter)
    return bank, adapters


def alone(case: Case, pristine: torch.nn.Module, adapter: Adapter | None, samples: Sequence[int]) -> Tensor:
    model = copy.deepcopy(pristine)
    if adapter is not None:
        inject(model, adapter, case.names)
    return case.answer(model, samples)


@pytest.mark.parametrize(
    ("family", "method"), [(family, "difffit") for family in FAMILIES] + [("dit", "bitfit"), ("unet", "bitfit")]
)
def test_a_mixed_batch_gives_what_each_adapter_gives_alone(family: str, method: str, device: torch.device) -> None:
    case = make_case(family).to(device)
    pristine = copy.deepcopy(case.model)
    bank, adapters = fill_bank(case, type=method)
    with bank.using(MIXED):
        mixed = case.answer(case.model)
    for sample, name in enumerate(MIXED):
        expected = alone(case, pristine, adapters.get(name or ""), [sample])
        torch.testing.assert_close(mixed[sample : sample + 1], expected, atol=1e-5, rtol=0)
    assert (mixed[0] - alone(case, pristine, None, [0])[0]).abs().max() > 1e-3


def test_adding_and_removing_leaves_the_base_as_it_was_bit_for_bit(case: Case) -> None:
    before, output = copy.deepcopy(case.model.state_dict()), case.answer(case.model)
    bank, _ = fill_bank(case)
    with bank.using(MIXED):
        case.answer(case.model)
    assert_same_state(case.model.state_dict(), before)
    assert torch.equal(case.answer(case.model), output)  # outside of `using` the bank is not there
    bank.remove("b")
    with bank.using(["c", "a", None, "c", "a"]):
        case.answer(case.model)
    for name in ("a", "c"):
        bank.remove(name)
    assert_same_state(case.model.state_dict(), before)
    assert torch.equal(case.answer(case.model), output)
    assert not any("forward" in vars(module) for module in case.model.modules())


def assert_same_state(state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert state.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in state.items())


def test_shared_training_gives_each_adapter_the_gradients_of_its_own_run(case: Case, device: torch.device) -> None:
    case.to(device)
    pristine = copy.deepcopy(case.model)
    bank, adapters = fill_bank(case)
    for name in ("a", "b"):
        bank.remove(name)
        bank.add(name, adapters[name], trainable=True)
    target = torch.randn(case.answer(case.model).shape, generator=torch.Generator().manual_seed(3)).to(device)
    with bank.using(MIXED):
        (case.answer(case.model) * target).sum().backward()
    for name in ("a", "b"):
        own = [sample for sample, used in enumerate(MIXED) if used == name]
        expected = gradients_alone(case, pristine, adapters[name], own, target[own])
        for tensor, parameter in bank.parameters(name).items():
            assert parameter.grad is not None, tensor
            torch.testing.assert_close(parameter.grad, expected[tensor], atol=1e-4, rtol=1e-4)
    assert all(parameter.grad is None for parameter in bank.parameters("c").values())
    assert all(parameter.grad is None for parameter in case.model.parameters())


def gradients_alone(
    case: Case, pristine: torch.nn.Module, adapter: Adapter, samples: Sequence[int], target: Tensor
) -> dict[str, Tensor]:
    model = copy.deepcopy(pristine)
    inject(model, adapter, case.names)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in adapter.tensors)
    (case.answer(model, samples) * target).sum().backward()
    return {name: p.grad for name, p in trained_parameters(model).items() if p.grad is not None}


def test_an_optimiser_step_on_one_adapter_changes_no_other_and_is_seen_by_the_next_batch() -> None:
    case = make_case("dit")
    bank, adapters = fill_bank(case)
    bank.remove("a")
    bank.add("a", adapters["a"], trainable=True)
    optimiser = torch.optim.AdamW(bank.parameters("a").values(), lr=0.01)
    with bank.using(MIXED):
        before = case.answer(case.model)
        before.square().mean().backward()
    optimiser.step()
    with bank.using(MIXED):
        after = case.answer(case.model)
    changed = [sample for sample in range(BATCH) if not torch.equal(before[sample], after[sample])]
    assert changed == [0, 3]


@pytest.mark.parametrize(("family", "null"), [("dit", 3), ("dit-spare", 1000)])
def test_a_guidance_batch_has_every_adapters_own_null_class(family: str, null: int) -> None:
    case = make_case(family)
    pristine = copy.deepcopy(case.model)
    bank, adapters = fill_bank(case)
    nulls = bank.null_labels(MIXED)
    assert nulls.tolist() == [3, null, 2, 3, 4]
    labels = torch.tensor([1, 2, 0, 2, 3])
    both = {name: torch.cat([tensor, tensor]) for name, tensor in case.inputs.items()}
    both["class_labels"] = torch.cat([labels, nulls])
    with bank.using([*MIXED, *MIXED]):
        mixed = case.answer(case.model, [], **both)
    for sample, name in enumerate([*MIXED, *MIXED]):
        model = copy.deepcopy(pristine)
        if name is not None:
            inject(model, adapters[name], case.names)
        one = {key: tensor[sample : sample + 1] for key, tensor in both.items()}
        torch.testing.assert_close(mixed[sample : sample + 1], case.answer(model, [], **one), atol=1e-5, rtol=0)


def test_the_strength_of_an_adapter_counts_in_the_bank(case: Case) -> None:
    adapter = case.adapter()
    output = case.answer(case.model)
    bank = AdapterBank(case.model, BASE_SHA256, case.names)
    bank.add("off", adapter, strength=0)
    bank.add("half", adapter, strength=0.5)
    bank.add("full", adapter)
    with bank.using(["off"] * BATCH):
        torch.testing.assert_close(case.answer(case.model), output, atol=1e-5, rtol=0)
    with bank.using(["half"] * BATCH):
        half = case.answer(case.model)
    with bank.using(["full"] * BATCH):
        full = case.answer(case.model)
    assert (half - output).abs().max() > 1e-4
    assert (half - full).abs().max() > 1e-4


def test_an_adapter_of_another_base_is_refused() -> None:
    case = make_case("dit")
    bank = AdapterBank(case.model, "0" * 64, case.names)
    with pytest.raises(AdapterError, match="use the base it was trained on") as caught:
        bank.add("a", case.adapter())
    assert caught.value.code == "wrong_base"


def test_a_method_whose_adapters_are_matrices_is_refused_by_the_name_of_a_tensor() -> None:
    case = make_case("dit")
    adapter = case.adapter(type="full")
    bank = AdapterBank(case.model, BASE_SHA256, case.names)
    with pytest.raises(AdapterError, match="cannot share a batch") as caught:
        bank.add("a", adapter)
    assert (caught.value.code, caught.value.param in adapter.tensors) == ("not_bankable", True)


def test_names_are_unique_and_known() -> None:
    case = make_case("dit")
    bank, adapters = fill_bank(case)
    with pytest.raises(AdapterError, match="already") as caught:
        bank.add("a", adapters["a"])
    assert caught.value.code == "name_taken"
    with pytest.raises(AdapterError, match="it has a, b, c") as caught, bank.using(["a", "d"]):
        pass
    assert (caught.value.code, caught.value.param) == ("unknown_adapter", "d")


def test_a_batch_of_another_size_is_refused_by_the_name_of_a_module() -> None:
    case = make_case("dit")
    bank, _ = fill_bank(case)
    with bank.using(["a", "b"]), pytest.raises(AdapterError, match="5 samples") as caught:
        case.answer(case.model)
    assert caught.value.code == "batch_mismatch"
    assert caught.value.param in dict(case.model.named_modules())


def test_a_label_of_another_adapters_space_is_refused() -> None:
    case = make_case("dit")
    bank, _ = fill_bank(case)
    labels = torch.tensor([0, 0, 3, 0, 0])  # b knows two classes and the null class
    with bank.using(MIXED), pytest.raises(AdapterError, match="sample 2 asks for class 3") as caught:
        case.answer(case.model, class_labels=labels)
    assert caught.value.code == "unknown_label"


def test_a_misfit_leaves_the_bank_and_the_base_as_they_were() -> None:
    case = make_case("dit")
    bank, adapters = fill_bank(case)
    with bank.using(MIXED):
        before = case.answer(case.model)
    broken = Adapter(adapters["a"].header, adapters["a"].tensors | {"extra": torch.zeros(1)})
    with pytest.raises(AdapterError, match="1 are unknown"):
        bank.add("d", broken)
    with bank.using(MIXED):
        assert torch.equal(case.answer(case.model), before)


def test_a_bank_takes_no_model_that_carries_an_adapter() -> None:
    case = make_case("dit")
    adapter = case.adapter()
    inject(case.model, adapter, case.names)
    with pytest.raises(AdapterError, match="carries an adapter already"):
        AdapterBank(case.model, BASE_SHA256, case.names)
