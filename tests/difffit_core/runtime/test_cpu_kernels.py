"""The CPU's bf16 attention and GELU give what exact arithmetic gives, as closely as bf16 allows."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from difffit_core.runtime import cpu_kernels
from difffit_core.runtime.cpu_kernels import attention, gelu_tanh


def inputs(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value `[B, heads, N, C]`, split from `[B, N, heads, C]` as a model does."""
    generator = torch.Generator().manual_seed(0)
    batch, heads, length, channels = shape
    query, key, value = (torch.randn(batch, length, heads, channels, generator=generator).to(dtype) for _ in range(3))
    return query.transpose(1, 2).requires_grad_(), key.transpose(1, 2).requires_grad_(), value.transpose(1, 2).requires_grad_()


def close(found: Tensor, exact: Tensor) -> bool:
    return bool((found.double() - exact).norm() < 0.01 * exact.norm())


@pytest.mark.parametrize("chunk", [1, 1 << 20])
def test_bf16_output_and_gradients_are_near_the_exact_ones(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(cpu_kernels, "SCORES", chunk)
    ours = inputs((3, 2, 16, 8), torch.bfloat16)
    query, key, value = (tensor.detach().double().requires_grad_() for tensor in ours)
    output, expected = attention(*ours), F.scaled_dot_product_attention(query, key, value)
    assert output.dtype == torch.bfloat16
    assert close(output, expected)
    upstream = torch.randn_like(output)
    gradients = torch.autograd.grad(output, ours, upstream)
    for found, right in zip(gradients, torch.autograd.grad(expected, (query, key, value), upstream.double()), strict=True):
        assert close(found, right)


def test_heads_are_joined_without_a_copy() -> None:
    output = attention(*inputs((2, 2, 16, 8), torch.bfloat16))
    assert output.transpose(1, 2).is_contiguous()


def test_scores_are_not_kept() -> None:
    ours = inputs((2, 2, 16, 8), torch.bfloat16)
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        attention(*ours)
    assert kept == [tensor.data_ptr() for tensor in ours]


def test_fp32_is_pytorchs_own() -> None:
    query, key, value = inputs((2, 2, 16, 8), torch.float32)
    assert torch.equal(attention(query, key, value), F.scaled_dot_product_attention(query, key, value))


@pytest.mark.parametrize("chunk", [7, 1 << 17])
def test_bf16_gelu_and_its_gradient_are_near_the_exact_ones(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(cpu_kernels, "ELEMENTS", chunk)
    x = torch.linspace(-8, 8, 1000).bfloat16().view(20, 50).mT.requires_grad_()
    exact = x.detach().double().requires_grad_()
    output, expected = gelu_tanh(x), F.gelu(exact, approximate="tanh")
    torch.testing.assert_close(output, expected.bfloat16(), rtol=2**-7, atol=1e-6)
    output.sum().backward()
    expected.sum().backward()
    assert x.grad is not None
    assert exact.grad is not None
    torch.testing.assert_close(x.grad, exact.grad.bfloat16(), rtol=2**-7, atol=1e-3)


def test_gelu_without_a_gradient_gives_the_same() -> None:
    x = torch.randn(5, 7).bfloat16()
    assert torch.equal(gelu_tanh(x), gelu_tanh(x.requires_grad_()))
