"""A subject's word: where it starts, what trains it, what the base makes beside it, and what is told or refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPTextModel

from difffit_core.adapters.file import read_adapter
from difffit_core.adapters.subject import SUBJECT
from difffit_core.data.dataset import index_class_folders, read_index
from difffit_core.errors import AdapterError, SpecError
from difffit_core.sampling.registry import load_generator
from difffit_core.spec.catalog import BaseModelEntry
from difffit_core.spec.generation import GenerationSpec
from difffit_core.spec.job import TrainingSpec
from difffit_core.tasks.config import DreamBoothConfig
from difffit_core.tasks.dreambooth import DreamBooth
from difffit_core.tasks.task import Examples
from tests.difffit_core.spec_dirs import ADAPTER, DREAMBOOTH, events_of, make_trainer, run_here, write_spec_dir

Bases = dict[str, BaseModelEntry]


def spec_dir(folder: Path, bases: Bases, task: dict[str, Any] | None = None, **hyperparameters: object) -> TrainingSpec:
    return write_spec_dir(folder, bases["dreambooth"], "difffit", DREAMBOOTH | (task or {}), **hyperparameters)


def loaded(folder: Path, spec: TrainingSpec) -> tuple[DreamBooth, Examples]:
    trainer = make_trainer(folder, spec)
    assert isinstance(trainer.task, DreamBooth)
    return trainer.task, trainer._load_data()[0][0]


def test_the_word_starts_as_the_mean_of_its_kinds_tokens_and_is_what_the_text_encoder_trains(
    tmp_path: Path, tiny_bases: Bases
) -> None:
    trainer = make_trainer(tmp_path, spec_dir(tmp_path, tiny_bases))
    task = trainer.task
    assert isinstance(task, DreamBooth)
    encoder = CLIPTextModel.from_pretrained(tiny_bases["dreambooth"].path / "text_encoder")
    table = encoder.get_parameter("embeddings.token_embedding.weight")
    tokens = task.text.tokenizer("star", add_special_tokens=False).input_ids
    torch.testing.assert_close(task.subject, table[tokens].mean(dim=0))
    outside = {name for name in trainer.state.parameters if name.startswith("text_encoder.")}
    assert outside == {SUBJECT}
    assert trainer.state.parameters[SUBJECT].numel() == 16  # 768 on Stable Diffusion 1.5


def test_the_word_is_one_token_of_the_prompt_and_gets_a_gradient(tmp_path: Path, tiny_bases: Bases, in_fp32: None) -> None:
    spec = spec_dir(tmp_path, tiny_bases, {"identifier": "<My-Dog>"})
    task, examples = loaded(tmp_path, spec)
    tokens = task.text.tokenizer("a <My-Dog> b").input_ids
    assert tokens.count(len(task.text.tokenizer) - 1) == 1
    drawn = task.draw(examples, 2, torch.Generator().manual_seed(0))
    task.loss(examples, torch.tensor([0, 1]), drawn).sum().backward()
    assert task.subject.grad is not None
    assert task.subject.grad.abs().max() > 0
    told = task.prompts(examples, torch.tensor([0, 1, 2]))["text"]
    assert not torch.equal(told[1], told[2])


@pytest.mark.parametrize("identifier", ["a", "<|endoftext|>"])
def test_a_word_that_the_tokenizer_has_is_refused(tmp_path: Path, tiny_bases: Bases, identifier: str) -> None:
    with pytest.raises(SpecError, match="Choose another") as caught:
        make_trainer(tmp_path, spec_dir(tmp_path, tiny_bases, {"identifier": identifier}))
    assert (caught.value.code, caught.value.param) == ("token_exists", "task.identifier")


def test_the_kinds_pictures_are_the_untouched_bases_and_made_once(tmp_path: Path, tiny_bases: Bases) -> None:
    spec = spec_dir(tmp_path, tiny_bases, {"prior_images": 10}, steps=2)
    run_here(tmp_path, spec, stop_at=1)
    made = {file.name: file.read_bytes() for file in (tmp_path / "prior").iterdir()}
    assert len(set(made.values())) == len(made) == 10
    prompts = ["a photo of a star"] * 10
    asked = GenerationSpec(prompts=prompts, steps=2, guidance_scale=3.0, seed=0, scheduler="ddim")
    expected = load_generator(tiny_bases["dreambooth"], "cpu").images(asked)
    (tmp_path / "prior" / "0009.png").unlink()
    (tmp_path / "encodings.safetensors").unlink()  # as on another machine, where only the checkpoint came
    run_here(tmp_path, spec)
    assert {file.name: file.read_bytes() for file in (tmp_path / "prior").iterdir()} == made
    task, _ = loaded(tmp_path, spec)
    again = task._prior_pictures(tmp_path / "again", lambda done, of: None)
    for file, picture in zip(again, expected, strict=True):
        picture.save(tmp_path / "expected.png")
        assert file.read_bytes() == (tmp_path / "expected.png").read_bytes() == made[file.name]


def test_the_kinds_loss_is_added_with_its_weight(tmp_path: Path, tiny_bases: Bases, in_fp32: None) -> None:
    losses = {}
    for weight in (1.0, 3.0):
        folder = tmp_path / str(weight)
        task, examples = loaded(folder, spec_dir(folder, tiny_bases, {"prior_images": 2, "prior_weight": weight}))
        drawn = task.draw(examples, 3, torch.Generator().manual_seed(0))
        rows = torch.tensor([0, 1, 2])
        losses[weight] = task.loss(examples, rows, drawn)
        alone = task.loss(examples, rows, {n: t for n, t in drawn.items() if not n.startswith("prior_")})
    torch.testing.assert_close(losses[3.0] - alone, 3 * (losses[1.0] - alone))
    assert (losses[1.0] > alone).all()


def test_too_few_pictures_and_several_subjects_are_told(tmp_path: Path, tiny_bases: Bases) -> None:
    spec = spec_dir(tmp_path, tiny_bases, steps=1)
    run_here(tmp_path, spec)
    assert not [event for event in events_of(tmp_path) if event["type"] == "warning"]
    dataset = tmp_path / "dataset"
    for file in sorted(dataset.glob("*/*.png"))[1:-1]:
        file.unlink()
    index_class_folders(dataset)
    messages = " ".join(make_trainer(tmp_path, spec).task.warnings(read_index(dataset)))
    assert "2 pictures" in messages
    assert "2 classes (star, tree)" in messages


def test_the_adapter_carries_the_word_and_one_without_it_is_refused(tmp_path: Path, tiny_bases: Bases) -> None:
    run_here(tmp_path, spec_dir(tmp_path, tiny_bases, {"identifier": "<cat>"}, steps=2, learning_rate=1e-2))
    adapter = read_adapter(tmp_path / ADAPTER)
    assert isinstance(adapter.header.task, DreamBoothConfig)
    assert adapter.header.task.identifier == "<cat>"
    assert adapter.tensors[SUBJECT].shape == (16,)
    generator = load_generator(tiny_bases["dreambooth"], "cpu")
    generator.use(adapter)
    asked = GenerationSpec(prompts=["a <cat>", "a cat"], steps=2, guidance_scale=2.0, seed=0, scheduler="ddim")
    one, two = generator.images(asked)
    assert one.tobytes() != two.tobytes()
    del adapter.tensors[SUBJECT]
    generator.use(None)
    base = generator.images(asked)[0].tobytes()
    with pytest.raises(AdapterError, match="no embedding") as caught:
        generator.use(adapter)
    assert caught.value.param == SUBJECT
    assert generator.images(asked)[0].tobytes() == base
