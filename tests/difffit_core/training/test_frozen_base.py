"""DiffFit trains on a base in bf16, int8 and NF4, which takes the memory its format says."""

import pytest
import torch
from diffusers import DiTTransformer2DModel
from torch import Tensor, nn

from difffit_core.errors import SpecError
from difffit_core.families.dit.network import load_transformer
from difffit_core.methods.config import named_method
from difffit_core.methods.injection import prepare, trained_parameters
from difffit_core.runtime.quantization import NF4_LEVELS, PackedWeight, pack, unpack
from difffit_core.spec.catalog import BaseModelEntry
from difffit_core.spec.job import BasePrecision
from difffit_core.training.frozen_base import store_base

PACKED: list[BasePrecision] = ["bf16", "int8", "nf4"]
LATENTS = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
TIMESTEPS, LABELS = torch.tensor([1, 300, 600, 999]), torch.tensor([0, 1, 2, 3])


def predict(model: nn.Module) -> Tensor:
    latents, timesteps, labels = (tensor.to(next(model.parameters()).device) for tensor in (LATENTS, TIMESTEPS, LABELS))
    output: Tensor = model(latents, timestep=timesteps, class_labels=labels).sample
    return output


def train_briefly(model: nn.Module, autocast: bool) -> list[float]:
    """The losses of 15 steps towards fixed random targets."""
    device = next(model.parameters()).device
    parameters = trained_parameters(model)
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-2)
    target = torch.randn(LATENTS.shape, generator=torch.Generator().manual_seed(1)).to(device)
    losses = []
    for _ in range(15):
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            output = predict(model)
        loss = (output.float() - target).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def prepared(base: BaseModelEntry, precision: BasePrecision, method: str = "difffit") -> DiTTransformer2DModel:
    model = load_transformer(base.path)
    prepare(model, named_method(method))
    store_base(model, precision)
    return model


def frozen_bytes(model: nn.Module) -> int:
    return sum(module.nbytes() for module in model.modules() if isinstance(module, PackedWeight))


@pytest.mark.parametrize(("precision", "error"), [("bf16", 2**-8), ("int8", 0.01), ("nf4", 0.12)])
@pytest.mark.parametrize("shape", [(48, 64), (7, 9)])
def test_rounding_is_within_what_the_format_allows(shape: tuple[int, int], precision: BasePrecision, error: float) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    weight[0] = 0
    restored = unpack(*pack(weight, precision), weight.shape).float()
    assert restored.shape == weight.shape
    assert (restored - weight).norm() < error * weight.norm()
    assert not restored[0].any()


def test_nf4_levels_are_the_published_ones() -> None:
    published = [-1.0, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911, 0.0]
    published += [0.0796, 0.1609, 0.2461, 0.3379, 0.4407, 0.5626, 0.7230, 1.0]
    assert pytest.approx(published, abs=1e-4) == NF4_LEVELS


@pytest.mark.parametrize(("precision", "bytes_a_weight"), [("bf16", 2), ("int8", 1 + 4 / 1024), ("nf4", 0.5 + 4 / 64)])
def test_memory_is_what_the_format_says(precision: BasePrecision, bytes_a_weight: float) -> None:
    assert PackedWeight(torch.randn(32, 1024), precision).nbytes() == 32 * 1024 * bytes_a_weight


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("precision", PACKED)
@pytest.mark.parametrize("method", ["difffit", "bitfit", "lora-r8"])
def test_training_on_a_packed_base_lowers_the_loss(
    tiny_base: BaseModelEntry, method: str, precision: BasePrecision, autocast: bool
) -> None:
    losses = train_briefly(prepared(tiny_base, precision, method), autocast)
    assert losses[-1] < 0.97 * losses[0]


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", *PACKED])
def test_training_on_a_gpu_follows_the_cpu(tiny_base: BaseModelEntry, precision: BasePrecision) -> None:
    on_cpu = train_briefly(prepared(tiny_base, precision), autocast=False)
    on_gpu = train_briefly(prepared(tiny_base, precision).to("cuda"), autocast=False)
    assert on_gpu == pytest.approx(on_cpu, rel=0.02)


@pytest.mark.parametrize("precision", PACKED)
def test_names_of_what_is_trained_stay(tiny_base: BaseModelEntry, precision: BasePrecision) -> None:
    assert trained_parameters(prepared(tiny_base, precision)).keys() == trained_parameters(prepared(tiny_base, "fp32")).keys()


def test_bf16_base_trains_exactly_as_autocast_does_on_fp32(tiny_base: BaseModelEntry) -> None:
    packed, dense = prepared(tiny_base, "bf16", "bitfit"), prepared(tiny_base, "fp32", "bitfit")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(predict(packed), predict(dense))


@pytest.mark.parametrize("precision", PACKED)
def test_gradients_are_those_of_the_unpacked_weights(tiny_base: BaseModelEntry, precision: BasePrecision) -> None:
    packed, dense = prepared(tiny_base, precision), prepared(tiny_base, "fp32")
    with torch.no_grad():
        for name, module in packed.named_modules():
            if isinstance(module, PackedWeight):
                dense.get_parameter(name).copy_(unpack(module.payload, module.steps, module.shape))
    for model in (packed, dense):
        predict(model).square().sum().backward()
    expected = trained_parameters(dense)
    for name, parameter in trained_parameters(packed).items():
        torch.testing.assert_close(parameter.grad, expected[name].grad, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize(("precision", "error"), [("bf16", 0.01), ("int8", 0.02), ("nf4", 0.3)])
def test_what_is_trained_on_a_packed_base_serves_the_base_itself(
    tiny_base: BaseModelEntry, precision: BasePrecision, error: float
) -> None:
    packed, base = prepared(tiny_base, precision), prepared(tiny_base, "fp32")
    generator = torch.Generator().manual_seed(1)
    own = trained_parameters(base)
    with torch.no_grad():
        for name, parameter in trained_parameters(packed).items():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
            own[name].copy_(parameter)
    expected = predict(base)
    assert 0 < (predict(packed) - expected).norm() < error * expected.norm()


def test_full_fine_tuning_has_no_frozen_matrix(tiny_base: BaseModelEntry) -> None:
    with pytest.raises(SpecError, match="trains every matrix") as caught:
        prepared(tiny_base, "int8", "full")
    assert caught.value.param == "hyperparameters.base_precision"


def test_compiles_without_a_graph_break(tiny_base: BaseModelEntry) -> None:
    torch.compiler.reset()  # other tests' models count towards the limit of recompilations
    model = prepared(tiny_base, "int8")
    expected = predict(model)
    for block in model.transformer_blocks:
        block.compile(fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(predict(model), expected)
