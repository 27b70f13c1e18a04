"""What DiffFit trains on a DiT, and how γ acts."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DiTTransformer2DModel
from torch import nn

from difffit_core.errors import ModelError
from difffit_core.families.dit.network import class_embedder, load_transformer, replace_class_table, tie_conditioning
from difffit_core.methods.config import MethodConfig
from difffit_core.methods.difffit.config import DiffFitConfig
from difffit_core.methods.difffit.layer import ScaledConv2d, ScaledLinear
from difffit_core.methods.full.config import FullConfig
from difffit_core.methods.injection import count_parameters, prepare, trained_parameters
from difffit_core.spec.catalog import BaseModelEntry

DIFFFIT = DiffFitConfig(type="difffit")
IMAGENET = [str(i) for i in range(1000)]


def dit_xl(classes: list[str]) -> DiTTransformer2DModel:
    """DiT-XL/2 at 256 as published, on the meta device."""
    with torch.device("meta"):
        model = DiTTransformer2DModel(out_channels=8)
        tie_conditioning(model)
        if classes != IMAGENET:
            replace_class_table(model, IMAGENET, classes)
    return model


@pytest.mark.parametrize(
    ("method", "classes", "trained"),
    [
        (FullConfig(type="full"), 101, 673_799_072),
        (DIFFFIT, 101, 703_904),
        (DIFFFIT, 1000, 1_739_552),
        (DiffFitConfig(type="difffit", scale_blocks=0), 101, 607_136),  # biases and class table alone: BitFit
    ],
)
def test_dit_xl_trains_the_published_number_of_parameters(method: MethodConfig, classes: int, trained: int) -> None:
    model = dit_xl(IMAGENET[:classes])
    with torch.device("meta"):
        prepare(model, method)
    assert count_parameters(model)[0] == trained


def test_choice_is_by_module_type_not_by_name(tiny_base: BaseModelEntry) -> None:
    model = load_transformer(tiny_base.path)
    prepare(model, DIFFFIT)
    names = trained_parameters(model).keys()
    frozen = {name for name, _ in model.named_parameters()} - names
    assert all(name.endswith((".bias", ".gamma", ".gamma_branch", "embedding_table.weight")) for name in names)
    assert "transformer_blocks.0.norm1.linear.weight" in frozen
    assert "transformer_blocks.0.norm1.emb.timestep_embedder.linear_1.weight" in frozen
    assert not any(name.endswith("bias") for name in frozen)


def test_scale_factors_stand_in_the_first_half_of_the_blocks(tiny_base: BaseModelEntry) -> None:
    model = load_transformer(tiny_base.path)
    prepare(model, DIFFFIT)
    gammas = {name: p for name, p in trained_parameters(model).items() if "gamma" in name}
    assert {name.split(".")[1] for name in gammas} == {"0", "1"}
    width = model.inner_dim
    assert sum(p.numel() for p in gammas.values()) == 2 * 6 * width
    assert all(torch.equal(p, torch.ones_like(p)) for p in gammas.values())


def test_class_table_and_timestep_mlp_are_trained_once_not_once_a_block(tiny_base: BaseModelEntry) -> None:
    model = load_transformer(tiny_base.path)
    prepare(model, DIFFFIT)
    assert sum("embedding_table" in name for name in trained_parameters(model)) == 1
    assert sum("timestep_embedder.linear_1.bias" in name for name in trained_parameters(model)) == 1


def test_blocks_that_embed_differently_are_refused(tiny_base: BaseModelEntry) -> None:
    model = DiTTransformer2DModel.from_pretrained(tiny_base.path, subfolder="transformer")
    with torch.no_grad():
        model.transformer_blocks[2].norm1.emb.class_embedder.embedding_table.weight.add_(1)
    with pytest.raises(Exception, match="Block 2 embeds"):
        tie_conditioning(model)


def test_new_label_space_keeps_known_rows_and_the_null_class(tiny_base: BaseModelEntry) -> None:
    model = load_transformer(tiny_base.path)
    old = class_embedder(model).embedding_table.weight.detach().clone()
    known = replace_class_table(model, ["circle", "square", "star"], ["star", "tree"])
    new = class_embedder(model).embedding_table.weight
    assert known == 1
    torch.testing.assert_close(new, torch.stack([old[2], old[:3].mean(0), old[3]]))
    assert model.config.num_embeds_ada_norm == 2


@pytest.mark.parametrize("bias", [True, False])
def test_scale_multiplies_the_whole_output(bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(5, 3, bias=bias)
    scaled = ScaledLinear(linear, ["gamma", "gamma_branch"])
    x = torch.randn(4, 5)
    torch.testing.assert_close(scaled(x), linear(x))
    with torch.no_grad():
        scaled.gamma.uniform_(0.5, 2)  # type: ignore[operator]
        scaled.gamma_branch.uniform_(0.5, 2)  # type: ignore[operator]
    expected = scaled.gamma * scaled.gamma_branch * linear(x)  # type: ignore[operator]
    torch.testing.assert_close(scaled(x), expected)


@pytest.mark.parametrize("bias", [True, False])
def test_scale_multiplies_a_convolution_channel_by_channel(bias: bool) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2, bias=bias, padding_mode="circular")
    scaled = ScaledConv2d(conv, ["gamma", "gamma_branch"])
    assert scaled.weight is conv.weight
    x = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(scaled(x), conv(x))
    with torch.no_grad():
        scaled.gamma.uniform_(0.5, 2)  # type: ignore[operator]
        scaled.gamma_branch.uniform_(0.5, 2)  # type: ignore[operator]
    factors = (scaled.gamma * scaled.gamma_branch)[:, None, None]  # type: ignore[operator]
    torch.testing.assert_close(scaled(x), factors * conv(x))


def test_a_class_table_smaller_than_the_labels_is_refused_by_name(tiny_base: BaseModelEntry, tmp_path: Path) -> None:
    shutil.copytree(tiny_base.path, tmp_path / "base")
    index = tmp_path / "base" / "model_index.json"
    labels = {str(i): f"class {i}" for i in range(9)}
    index.write_text(json.dumps(json.loads(index.read_text()) | {"id2label": labels}))
    with pytest.raises(ModelError, match="embedding_table has rows for 3 classes") as refused:
        load_transformer(tmp_path / "base")
    assert refused.value.code == "class_table_too_small"
    with pytest.raises(ModelError, match="embedding_table"):
        replace_class_table(load_transformer(tiny_base.path), list(labels.values()), ["star"])


def test_scale_factors_act_on_branches_and_leave_the_residual_alone(tiny_base: BaseModelEntry) -> None:
    model = load_transformer(tiny_base.path)
    prepare(model, DIFFFIT)
    block = model.transformer_blocks[0]
    with torch.no_grad():
        block.attn1.to_out[0].gamma_branch.zero_()
        block.ff.net[-1].gamma_branch.zero_()
    x = torch.randn(2, 16, model.inner_dim)
    output = block(x, timestep=torch.tensor([3, 4]), class_labels=torch.tensor([0, 1]))
    torch.testing.assert_close(output, x)
