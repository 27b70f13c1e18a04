"""Encodings are told apart by all that they depend on and by nothing else; a file of them is used whole or not at all."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from difffit_core.data.dataset import Item
from difffit_core.data.encoded_file import read_encoded, write_encoded
from difffit_core.data.encodings import FILE, encodings_key
from difffit_core.errors import DatasetError
from difffit_core.spec.catalog import BaseModelEntry
from difffit_core.spec.job import TrainingSpec
from difffit_core.tasks.config import ControlNetConfig
from difffit_core.tasks.task import Examples
from tests.difffit_core.spec_dirs import ADAPTER, CASES, run_here, write_base, write_spec_dir
from tests.tiny_models import write_tiny_blip

Change = Callable[[TrainingSpec], TrainingSpec]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], TrainingSpec]:
    made: dict[str, TrainingSpec] = {}

    def spec_of(task: str) -> TrainingSpec:
        if task not in made:
            folder = tmp_path_factory.mktemp(task)
            made[task] = write_spec_dir(folder / "job", write_base(folder / "base", task), task=CASES[task][1])
        return made[task]

    return spec_of


def hyperparameter(**values: Any) -> Change:
    return lambda spec: spec.model_copy(update={"hyperparameters": spec.hyperparameters.model_copy(update=values)})


def option(**values: Any) -> Change:
    """The same job with another option of its task."""
    return lambda spec: spec.model_copy(update={"task": spec.task.model_copy(update=values)})


def other_content(spec: TrainingSpec) -> TrainingSpec:
    return spec.model_copy(update={"dataset": spec.dataset.model_copy(update={"sha256": "0" * 64})})


def changed_file(name: str) -> Callable[[TrainingSpec, Path], TrainingSpec]:
    """The same job on a copy of the base where one byte was added to a file."""

    def change(spec: TrainingSpec, folder: Path) -> TrainingSpec:
        shutil.copytree(spec.base_model_path, folder)
        (folder / name).write_bytes((folder / name).read_bytes() + b" ")
        return spec.model_copy(update={"base_model_path": str(folder)})

    return change


@pytest.mark.parametrize(
    ("task", "change"),
    [
        ("class-conditional", other_content),
        ("class-conditional", hyperparameter(resolution=32)),
        ("class-conditional", hyperparameter(validation_fraction=0.5)),
        ("text-to-image", hyperparameter(aspect="buckets")),
        ("text-to-image", lambda spec: spec.model_copy(update={"task": ControlNetConfig(type="controlnet")})),
        ("dreambooth", option(prior_images=4)),
        ("dreambooth", option(prior_images=0)),
        ("dreambooth", option(subject="tree")),
        ("dreambooth", hyperparameter(guidance_scale=1.0)),
        ("dreambooth", hyperparameter(sample_steps=9)),
        ("dreambooth", lambda spec: spec.model_copy(update={"seed": 9})),
        ("instruction", hyperparameter(max_tokens=32)),
    ],
)
def test_what_examples_are_encoded_from_is_in_the_key(
    folders: Callable[[str], TrainingSpec], task: str, change: Change
) -> None:
    spec = folders(task)
    assert encodings_key(change(spec)) != encodings_key(spec)


@pytest.mark.parametrize(
    ("task", "file", "matters"),
    [
        ("class-conditional", "vae/diffusion_pytorch_model.safetensors", True),
        ("class-conditional", "vae/config.json", True),
        ("class-conditional", "transformer/diffusion_pytorch_model.safetensors", False),
        ("text-to-image", "vae/diffusion_pytorch_model.safetensors", True),
        ("text-to-image", "text_encoder/model.safetensors", True),
        ("text-to-image", "text_encoder/config.json", True),
        ("text-to-image", "tokenizer/tokenizer_config.json", True),
        ("text-to-image", "unet/diffusion_pytorch_model.safetensors", False),
        ("text-to-image-pixart", "model_index.json", True),
        ("text-to-image-pixart", "tokenizer/tokenizer.json", True),
        ("dreambooth", "unet/diffusion_pytorch_model.safetensors", True),
        ("dreambooth", "text_encoder/model.safetensors", True),
        ("dreambooth", "scheduler/scheduler_config.json", True),
        ("controlnet", "text_encoder/model.safetensors", True),
        ("controlnet", "controlnet/diffusion_pytorch_model.safetensors", False),
        ("instruction", "tokenizer.json", True),
        ("instruction", "model.safetensors", False),
        ("instruction", "generation_config.json", False),
    ],
)
def test_of_a_base_what_encodes_is_in_the_key_and_what_trains_is_not(
    folders: Callable[[str], TrainingSpec], tmp_path: Path, task: str, file: str, matters: bool
) -> None:
    spec = folders(task)
    assert (encodings_key(changed_file(file)(spec, tmp_path / "other")) != encodings_key(spec)) == matters


def test_a_file_that_changes_in_place_is_read_again(folders: Callable[[str], TrainingSpec], tmp_path: Path) -> None:
    spec = changed_file("vae/config.json")(folders("class-conditional"), tmp_path / "base")
    before = encodings_key(spec)
    weights = tmp_path / "base" / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[::-1])
    assert encodings_key(spec) != before


@pytest.mark.parametrize("task", ["class-conditional", "text-to-image", "instruction"])
def test_how_a_job_trains_is_not_in_the_key(folders: Callable[[str], TrainingSpec], tmp_path: Path, task: str) -> None:
    spec = folders(task)
    training = hyperparameter(
        **{"steps": 9, "batch_size": 2, "micro_batch_size": 1, "learning_rate": 0.5, "ema_decay": 0.5, "horizontal_flip": True},
        **{"label_dropout": 0.5, "guidance_scale": 1.0, "sample_steps": 9, "base_precision": "bf16", "sampler": "balanced"},
    )(spec)
    other = training.model_copy(update={"seed": 9, "base_model": "renamed", "compile": True})
    bitfit = write_spec_dir(
        tmp_path, BaseModelEntry.in_folder("x", Path(spec.base_model_path), spec.defaults, spec.family), "lora"
    )
    assert encodings_key(spec) == encodings_key(training) == encodings_key(other) == encodings_key(bitfit)


def test_what_writes_captions_is_in_the_key_where_it_writes_any(folders: Callable[[str], TrainingSpec], tmp_path: Path) -> None:
    blip = write_tiny_blip(tmp_path / "blip")
    captioned = folders("text-to-image").model_copy(update={"captioner_path": str(blip)})
    missing = captioned.model_copy(update={"dataset": captioned.dataset.model_copy(update={"holds": ["file"]})})
    keys = encodings_key(captioned), encodings_key(missing)
    (blip / "config.json").write_text((blip / "config.json").read_text() + " ")
    assert (keys[0] == encodings_key(captioned), keys[1] == encodings_key(missing)) == (True, False)
    assert encodings_key(missing.model_copy(update={"captioner_path": "nowhere"})) not in keys


def test_the_pictures_of_a_subject_alone_depend_on_the_autoencoder_alone(folders: Callable[[str], TrainingSpec]) -> None:
    """Its prompts are embedded in every step, as its word is trained."""
    alone = option(prior_images=0)(folders("dreambooth"))
    other = option(identifier="<dog>", subject="tree", prior_weight=0.5, train_text_encoder=False)(alone)
    other = hyperparameter(guidance_scale=1.0, sample_steps=9)(other).model_copy(update={"seed": 9})
    assert encodings_key(other) == encodings_key(alone)


def test_another_job_encodes_nothing_and_trains_the_same(tmp_path: Path) -> None:
    """With another method and learning rate, and to the bit what it would have trained by itself."""
    base = write_base(tmp_path / "base", "text-to-image")
    first, second, alone = tmp_path / "first", tmp_path / "second", tmp_path / "alone"
    events = run_here(first, write_spec_dir(first, base, steps=2))
    assert {"encoding", "encoded"} <= {event["type"] for event in events}
    spec = write_spec_dir(second, base, "bitfit", steps=3, learning_rate=1e-2)
    shutil.copytree(second, alone)
    shutil.copy(first / FILE, second / FILE)
    types = [event["type"] for event in run_here(second, spec)]
    assert types.count("encodings_reused") == 1
    assert not {"encoding", "encoded", "warning"} & set(types)
    assert "encodings_reused" not in [event["type"] for event in run_here(alone, spec)]
    assert (second / ADAPTER).read_bytes() == (alone / ADAPTER).read_bytes()


@pytest.mark.parametrize("damage", ["cut off", "of other examples"])
def test_a_file_that_cannot_be_used_is_written_anew_with_a_warning(tmp_path: Path, damage: str) -> None:
    base = write_base(tmp_path / "base", "class-conditional")
    job, other = tmp_path / "job", tmp_path / "other"
    spec = write_spec_dir(job, base, steps=1)
    run_here(other, write_spec_dir(other, base, steps=1, validation_fraction=0.3))
    content = (other / FILE).read_bytes()
    (job / FILE).write_bytes(content[:-50] if damage == "cut off" else content)
    events = run_here(job, spec)
    assert [event["type"] for event in events if event["type"] in {"warning", "encoded", "encodings_reused", "succeeded"}] == [
        *("warning", "encoded", "succeeded")
    ]
    assert "encoded anew" in next(event["message"] for event in events if event["type"] == "warning")
    assert "encodings_reused" in [event["type"] for event in run_here(job, spec)]


def test_encoded_tensors_come_back_as_they_were(tmp_path: Path) -> None:
    parts = {"train": [Item("a"), Item("b"), Item("c")], "validation": []}
    wide = Examples(parts["train"][:1], {"mean": torch.rand(1, 3)}, (32, 8))
    tall = Examples(parts["train"][1:], {"mean": torch.rand(2, 6).T[:2], "label": torch.tensor([1, 0])}, (8, 32))
    write_encoded(tmp_path / FILE, parts, {"train": [wide, tall], "validation": []})
    found = read_encoded(tmp_path / FILE, parts, torch.device("cpu"))
    assert found["validation"] == []
    for bucket, expected in zip(found["train"], [tall, wide], strict=True):  # the larger first
        assert (bucket.items, bucket.size, bucket.tensors.keys()) == (expected.items, expected.size, expected.tensors.keys())
        assert all(torch.equal(tensor, expected.tensors[name]) for name, tensor in bucket.tensors.items())
    with pytest.raises(DatasetError) as refused:
        read_encoded(tmp_path / FILE, parts | {"train": [Item("b"), Item("a"), Item("c")]}, torch.device("cpu"))
    assert refused.value.code == "invalid_encodings"
