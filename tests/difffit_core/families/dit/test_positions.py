"""A DiT on a larger grid: its positions stay in the range that it knows, and adapters remember their resolution."""

import copy
from pathlib import Path

import pytest
import torch

from difffit_core.adapters.file import read_adapter
from difffit_core.errors import SpecError
from difffit_core.families.dit.network import load_transformer
from difffit_core.families.dit.positions import resize
from difffit_core.sampling.registry import load_generator
from difffit_core.spec.catalog import BaseModelEntry
from difffit_core.spec.generation import GenerationSpec
from tests.difffit_core.spec_dirs import ADAPTER, run_here, write_spec_dir
from tests.tiny_models import tiny_dit

OLD, NEW = 4, 8  # patches a side of the tiny DiT's 8 x 8 and of 16 x 16 latents


def table_of(sample_size: int) -> torch.Tensor:
    model = tiny_dit()
    resize(model, sample_size)
    table: torch.Tensor = model.pos_embed.pos_embed
    grid = sample_size // model.config.patch_size
    return table.view(grid, grid, -1)  # [row, column, D]


def test_every_second_position_is_one_that_the_base_knows() -> None:
    known = tiny_dit().pos_embed.pos_embed.view(OLD, OLD, -1)
    assert torch.equal(table_of(16)[::2, ::2], known)


def test_the_range_is_kept() -> None:
    """Position (i, j) is encoded at (i/2, j/2): the columns' half of the vector first, sines before cosines."""
    table = table_of(16)
    quarter = table.shape[-1] // 4
    frequencies = 10000.0 ** -(torch.arange(quarter) / quarter)
    for row, column in ((0, 0), (1, 2), (5, 3), (NEW - 1, NEW - 1)):
        x, y = column / 2 * frequencies, row / 2 * frequencies
        torch.testing.assert_close(table[row, column], torch.cat([x.sin(), x.cos(), y.sin(), y.cos()]), atol=1e-6, rtol=0)


def test_the_way_back_restores_the_table_bit_for_bit() -> None:
    model = tiny_dit()
    before = model.pos_embed.pos_embed.clone()
    resize(model, 16)
    resize(model, 8)
    assert torch.equal(model.pos_embed.pos_embed, before)
    assert model.config.sample_size == 8


def test_no_weight_changes_and_the_output_is_larger() -> None:
    model = tiny_dit()
    weights = copy.deepcopy(model.state_dict())
    resize(model, 16)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    output = model(torch.randn(1, 4, 16, 16), timestep=torch.tensor([3]), class_labels=torch.tensor([0])).sample
    assert output.shape == (1, 4, 16, 16)


def test_an_adapter_trained_at_twice_the_size_generates_at_it(tmp_path: Path, tiny_base: BaseModelEntry) -> None:
    spec = write_spec_dir(tmp_path, tiny_base, steps=3, resolution=32)
    run_here(tmp_path, spec)
    adapter = read_adapter(tmp_path / ADAPTER)
    assert adapter.header.resolution == 32
    generator = load_generator(tiny_base, "cpu")
    generator.use(read_adapter(tmp_path / ADAPTER))
    wanted = GenerationSpec(labels=[0], steps=2, guidance_scale=1.0, seed=3, scheduler="ddim")
    assert generator.images(wanted)[0].size == (32, 32)
    many = [picture.tobytes() for picture in generator.images(wanted.model_copy(update={"labels": [0, 1] * 9}))]
    assert len(set(many)) == 18  # two portions, each picture from noise of its own
    generator.use(None)
    assert generator.images(wanted)[0].tobytes() == load_generator(tiny_base, device="cpu").images(wanted)[0].tobytes()


def test_the_resolution_must_be_whole_patches(tmp_path: Path, tiny_base: BaseModelEntry) -> None:
    with pytest.raises(SpecError, match="multiple of 4 pixels") as caught:
        write_spec_dir(tmp_path, tiny_base, resolution=30)
    assert caught.value.param == "hyperparameters.resolution"


def test_a_base_is_loaded_at_its_own_size(tiny_base: BaseModelEntry) -> None:
    assert load_transformer(tiny_base.path).config.sample_size == 8
