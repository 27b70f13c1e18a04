"""The base that comes with the package, and adapters on it, in diffusers' own pipeline with guidance on, as by default."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiTPipeline
from PIL import Image

from difffit_core.adapters.export.peft import export_peft
from difffit_core.adapters.file import Adapter, AdapterHeader
from difffit_core.families.dit.network import class_embedder, load_transformer, replace_class_table
from difffit_core.methods.config import named_method
from difffit_core.methods.injection import prepare, trained_parameters
from difffit_core.sampling.denoising import scheduler_settings
from difffit_core.sampling.registry import load_generator
from difffit_core.spec.catalog import BaseModelEntry, load_catalog
from difffit_core.spec.generation import GenerationSpec
from difffit_core.tasks.config import ClassConditionalConfig
from tests.difffit_core.adapters.export.test_readme import SEED, drawn_by, service_picture

STEPS = 3
CONDITION = Image.new("RGB", (1, 1))  # which no DiT takes


@pytest.fixture
def base() -> BaseModelEntry:
    entry = load_catalog()["emoji-dit"]
    return entry.model_copy(update={"defaults": entry.defaults.model_copy(update={"sample_steps": STEPS})})


def test_the_stock_pipeline_draws_with_its_defaults_and_what_the_service_draws(base: BaseModelEntry) -> None:
    pipeline = DiTPipeline.from_pretrained(base.path)
    pipeline.set_progress_bar_config(disable=True)
    labels = pipeline.get_label_ids([base.class_names()[3], base.class_names()[98]])
    assert labels == [3, 98]
    assert pipeline(class_labels=[3], guidance_scale=4.0, num_inference_steps=1).images[0].size == (64, 64)

    kind, settings = scheduler_settings(pipeline.scheduler.config, "dpmsolver++", learned_variance=False)
    pipeline.scheduler = kind.from_config(pipeline.scheduler.config, **settings)
    generators = [torch.Generator().manual_seed(SEED + number) for number in range(2)]
    stock = pipeline(labels, num_inference_steps=STEPS, generator=generators).images  # guided by 4, its default
    spec = GenerationSpec(labels=labels, steps=STEPS, guidance_scale=4.0, seed=SEED, scheduler="dpmsolver++")
    for theirs, mine in zip(stock, load_generator(base, "cpu").images(spec), strict=True):
        assert abs(np.asarray(theirs).astype(int) - np.asarray(mine).astype(int)).max() <= 1  # rounding


def test_the_rows_behind_its_classes_are_the_null_class(base: BaseModelEntry) -> None:
    table = class_embedder(load_transformer(base.path)).embedding_table.weight
    assert (len(table), len(base.class_names()), base.null_label()) == (1001, 99, 1000)
    assert torch.equal(table[99:], table[-1:].expand(902, -1))
    assert len(table[:100].unique(dim=0)) == 100


def moved_adapter(base: BaseModelEntry, class_names: list[str]) -> Adapter:
    """A DiffFit adapter whose values are a little beside the base's, at random."""
    model, method = load_transformer(base.path), named_method("difffit")
    replace_class_table(model, base.class_names(), class_names)
    prepare(model, method)
    header = AdapterHeader("emoji-dit", base.sha256(), "d" * 64, "dit", method, class_names, ClassConditionalConfig())
    random = torch.Generator().manual_seed(0)
    tensors = {name: p + 0.1 * torch.randn(p.shape, generator=random) for name, p in trained_parameters(model).items()}
    return Adapter(header, {name: tensor.detach() for name, tensor in tensors.items()})


@pytest.mark.parametrize("named_alike", [False, True])
def test_an_adapters_peft_folder_draws_the_services_picture_by_its_readme(
    tmp_path: Path, base: BaseModelEntry, named_alike: bool
) -> None:
    adapter = moved_adapter(base, base.class_names() if named_alike else ["animal-bird", "wug"])
    table = adapter.tensors["transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight"]
    assert len(table) == len(adapter.header.class_names) + 1  # none of the base's rows that name nothing
    export_peft(base, adapter, tmp_path / "peft")
    readme = tmp_path / "peft" / "README.md"
    assert "class_embedder" not in readme.read_text()
    theirs = np.asarray(drawn_by(readme, base, CONDITION)).astype(int)
    mine = np.asarray(service_picture(base, adapter, "dit", CONDITION)).astype(int)
    assert abs(mine - theirs).max() <= 1  # rounding
    spec = GenerationSpec(labels=[0], steps=STEPS, guidance_scale=3.0, seed=SEED, scheduler="dpmsolver++")
    assert abs(mine - np.asarray(load_generator(base, "cpu").images(spec)[0])).max() > 8
