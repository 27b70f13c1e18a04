"""Conditioning is computed once a forward pass, with the outputs and gradients of the model as diffusers runs it."""

import pytest
import torch
from diffusers import DiTTransformer2DModel
from torch import Tensor

from difffit_core.families.dit.network import class_embedder, load_transformer
from difffit_core.methods.difffit.config import DiffFitConfig
from difffit_core.methods.injection import prepare, trained_parameters
from difffit_core.spec.catalog import BaseModelEntry

BATCH = (
    torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0)),
    torch.tensor([1, 500, 999]),
    torch.tensor([0, 2, 3]),
)


def predict(model: DiTTransformer2DModel, timesteps: Tensor = BATCH[1]) -> Tensor:
    output: Tensor = model(BATCH[0], timestep=timesteps, class_labels=BATCH[2]).sample
    return output


def stock_model(base: BaseModelEntry) -> DiTTransformer2DModel:
    return DiTTransformer2DModel.from_pretrained(base.path, subfolder="transformer").eval()


def prepared_model(base: BaseModelEntry) -> DiTTransformer2DModel:
    model = load_transformer(base.path)
    prepare(model, DiffFitConfig(type="difffit"))
    return model.train()


def gradients(model: DiTTransformer2DModel) -> dict[str, Tensor]:
    names, parameters = zip(*trained_parameters(model).items(), strict=True)
    return dict(zip(names, torch.autograd.grad(predict(model).square().sum(), parameters), strict=True))


def test_outputs_are_those_of_the_stock_model(tiny_base: BaseModelEntry) -> None:
    model, stock = load_transformer(tiny_base.path).eval(), stock_model(tiny_base)
    torch.testing.assert_close(predict(model), predict(stock), atol=1e-6, rtol=0)
    positional = model(*BATCH, None, False)[0]
    torch.testing.assert_close(positional, predict(stock), atol=1e-6, rtol=0)


def test_conditioning_is_computed_once_and_anew_each_time(tiny_base: BaseModelEntry) -> None:
    model, stock = load_transformer(tiny_base.path).eval(), stock_model(tiny_base)
    calls: list[int] = []
    class_embedder(model).register_forward_hook(lambda *_: calls.append(1))
    predict(model)
    assert len(calls) == 1
    later = BATCH[1] // 2
    torch.testing.assert_close(predict(model, later), predict(stock, later), atol=1e-6, rtol=0)
    with torch.no_grad():
        for embedder in [class_embedder(model), *(block.norm1.emb.class_embedder for block in stock.transformer_blocks)]:
            embedder.embedding_table.weight.mul_(2)
    torch.testing.assert_close(predict(model), predict(stock), atol=1e-6, rtol=0)


def test_gradients_sum_over_the_blocks(tiny_base: BaseModelEntry) -> None:
    model, stock = load_transformer(tiny_base.path), stock_model(tiny_base)
    predict(model).square().sum().backward()
    predict(stock).square().sum().backward()
    ours = dict(model.transformer_blocks[0].norm1.emb.named_parameters())
    copies = [dict(block.norm1.emb.named_parameters()) for block in stock.transformer_blocks]
    for name, parameter in ours.items():
        torch.testing.assert_close(
            parameter.grad, torch.stack([copy[name].grad for copy in copies]).sum(0), atol=1e-5, rtol=1e-4
        )


def test_gradient_checkpointing_gives_the_same_gradients(tiny_base: BaseModelEntry) -> None:
    model = prepared_model(tiny_base)
    plain = gradients(model)
    model.enable_gradient_checkpointing()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, plain[name], msg=name)


@pytest.mark.parametrize("autocast", [False, True])
def test_blocks_compile_without_a_graph_break(tiny_base: BaseModelEntry, autocast: bool) -> None:
    torch.compiler.reset()  # other tests' models count towards the limit of recompilations
    model, compiled = prepared_model(tiny_base), prepared_model(tiny_base)
    for block in compiled.transformer_blocks:
        block.compile(fullgraph=True, backend="aot_eager")  # traces as any backend does, and needs no C++ compiler
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        expected, found = gradients(model), gradients(compiled)
    largest = max(gradient.norm() for gradient in expected.values())
    for name, gradient in found.items():
        assert (gradient - expected[name]).norm() <= (0.01 if autocast else 1e-6) * largest, name
