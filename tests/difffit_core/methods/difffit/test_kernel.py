"""The fused Linear with scale factors equals the plain formula, with its gradients, and keeps less."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from difffit_core.methods.difffit.kernel import scaled_linear
from difffit_core.methods.difffit.layer import ScaledLinear

TOLERANCE: dict[torch.dtype, Any] = {torch.float32: {"rtol": 1e-4, "atol": 1e-5}, torch.bfloat16: {"rtol": 3e-2, "atol": 3e-2}}


def plain(x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor) -> Tensor:
    return F.linear(x, weight, bias) * scale


def leaves(shape: tuple[int, ...], bias: bool = True, dtype: torch.dtype = torch.float32) -> list[Tensor | None]:
    """x, frozen weight `[6, 5]`, bias and a scale with a zero, a negative and a tiny number among its six."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(*shape, 5, generator=generator, dtype=dtype).requires_grad_()
    weight = torch.randn(6, 5, generator=generator, dtype=dtype)
    shift = torch.randn(6, generator=generator, dtype=dtype).requires_grad_() if bias else None
    scale = torch.tensor([1.0, 0.0, -0.7, 1.3, 1e-30, 0.2], dtype=dtype).requires_grad_()
    return [x, weight, shift, scale]


def gradients(output: Tensor, inputs: list[Tensor | None]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    upstream = torch.randn(output.shape, generator=generator).to(output.dtype)
    return list(torch.autograd.grad(output, [i for i in inputs if i is not None and i.requires_grad], upstream))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3,), (2, 4), (2, 3, 4)])
def test_output_and_gradients_are_those_of_the_plain_formula(shape: tuple[int, ...], bias: bool, dtype: torch.dtype) -> None:
    inputs = leaves(shape, bias, dtype)
    exact = [None if i is None else i.detach().double().requires_grad_(i.requires_grad) for i in inputs]
    output, expected = scaled_linear(*inputs), plain(*exact)  # type: ignore[arg-type]
    assert output.dtype == dtype
    torch.testing.assert_close(output, expected.to(dtype), **TOLERANCE[dtype])
    for found, right in zip(gradients(output, inputs), gradients(expected, exact), strict=True):
        torch.testing.assert_close(found, right.to(dtype), **TOLERANCE[dtype])


@pytest.mark.parametrize("bias", [True, False])
def test_gradients_are_right_by_finite_differences(bias: bool) -> None:
    x, weight, shift, scale = leaves((2, 3), bias, torch.float64)
    assert torch.autograd.gradcheck(lambda x, b, s: scaled_linear(x, weight, b, s), (x, shift, scale))  # type: ignore[arg-type]


def test_gradient_of_a_zero_scale_is_not_lost() -> None:
    x, weight, bias, _ = leaves((4,))
    scale = torch.zeros(6, requires_grad=True)
    (found,) = torch.autograd.grad(scaled_linear(x, weight, bias, scale).sum(), scale)  # type: ignore[arg-type]
    torch.testing.assert_close(found, F.linear(x, weight, bias).sum(0))  # type: ignore[arg-type]


def test_several_factors_and_two_uses_add_up() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(5, 5)
    layer = ScaledLinear(linear, ["gamma", "gamma_branch"])
    layer.weight.requires_grad_(False)
    with torch.no_grad():
        layer.gamma.uniform_(-1, 1)  # type: ignore[operator]
        layer.gamma_branch.uniform_(-1, 1)  # type: ignore[operator]
        layer.gamma[2] = 0.0  # type: ignore[operator]
    x = torch.randn(3, 5, requires_grad=True)
    trained = [x, layer.bias, layer.gamma, layer.gamma_branch]
    twice = layer(layer(x))
    scale = layer.gamma * layer.gamma_branch  # type: ignore[operator]
    expected = plain(plain(x, layer.weight, layer.bias, scale), layer.weight, layer.bias, scale)
    torch.testing.assert_close(twice, expected)
    for found, right in zip(gradients(twice, trained), gradients(expected, trained), strict=True):  # type: ignore[arg-type]
        torch.testing.assert_close(found, right)


def test_autocast_multiplies_in_bf16_and_leaves_gradients_in_fp32() -> None:
    inputs = leaves((64,))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, expected = scaled_linear(*inputs), plain(*inputs)  # type: ignore[arg-type]
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), expected.float(), **TOLERANCE[torch.bfloat16])
    for found, right in zip(gradients(output.float(), inputs), gradients(expected.float(), inputs), strict=True):
        assert found.dtype == torch.float32
        assert (found - right).norm() < 0.02 * right.norm()


def test_neither_the_input_nor_a_bf16_copy_of_the_weight_is_kept() -> None:
    inputs = leaves((64,))
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t), torch.autocast("cpu", dtype=torch.bfloat16):
        output = scaled_linear(*inputs)  # type: ignore[arg-type]
    large = {tensor.data_ptr() for tensor in kept if tensor.ndim > 1}
    assert large == {inputs[1].data_ptr(), output.data_ptr()}  # type: ignore[union-attr]


def test_gradient_checkpointing_changes_nothing() -> None:
    inputs = leaves((2, 4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = scaled_linear(*inputs)  # type: ignore[arg-type]
        again = checkpoint(scaled_linear, *inputs, use_reentrant=False)
    for found, right in zip(gradients(again, inputs), gradients(output, inputs), strict=True):
        assert torch.equal(found, right)


def test_weight_that_is_trained_gets_its_gradient() -> None:
    inputs = leaves((2, 4))
    inputs[1].requires_grad_()  # type: ignore[union-attr]
    found = gradients(scaled_linear(*inputs), inputs)  # type: ignore[arg-type]
    for one, right in zip(found, gradients(plain(*inputs), inputs), strict=True):  # type: ignore[arg-type]
        torch.testing.assert_close(one, right)


def test_a_second_derivative_is_refused() -> None:
    x, weight, bias, scale = leaves((2,))
    output = scaled_linear(x, weight, bias, scale)  # type: ignore[arg-type]
    (first,) = torch.autograd.grad(output.square().sum(), x, create_graph=True)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_compiles_without_a_graph_break() -> None:
    torch.compiler.reset()  # other tests' models count towards the limit of recompilations
    inputs = leaves((2, 4))
    compiled = torch.compile(scaled_linear, fullgraph=True, backend="aot_eager")(*inputs)  # type: ignore[arg-type]
    output = scaled_linear(*inputs)  # type: ignore[arg-type]
    torch.testing.assert_close(compiled, output)
    for found, right in zip(gradients(compiled, inputs), gradients(output, inputs), strict=True):
        torch.testing.assert_close(found, right)
