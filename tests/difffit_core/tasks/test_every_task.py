"""What holds for each kind of training: it learns, goes on exactly, and saving memory changes no gradient."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from difffit_core.spec.catalog import BaseModelEntry
from difffit_core.spec.job import TrainingSpec
from tests.difffit_core.spec_dirs import ADAPTER, CASES, TASKS, events_of, make_trainer, run_here, write_spec_dir

Bases = dict[str, BaseModelEntry]


def spec_dir(folder: Path, bases: Bases, case: str, **hyperparameters: object) -> TrainingSpec:
    return write_spec_dir(folder, bases[case], "difffit", CASES[case][1], **hyperparameters)


each_task = pytest.mark.parametrize("task", TASKS)


@each_task
def test_it_learns_and_shows_what_it_makes(tmp_path: Path, tiny_bases: Bases, task: str, device: torch.device) -> None:
    spec = spec_dir(
        tmp_path, tiny_bases, task, steps=12, learning_rate=1e-2, validation_fraction=0.25, validate_every=12, sample_every=6
    )
    events = run_here(tmp_path, spec, device=device)
    losses = {event["base"]: event["loss"] for event in events if event["type"] == "validation"}
    assert losses[False] < 0.99 * losses[True]
    samples = [event for event in events if event["type"] == "sample"]
    assert [event["step"] for event in samples] == [0, 6, 12]
    first, *_, last = [(tmp_path / event["path"]).read_bytes() for event in samples]
    assert first != last
    assert all(event["labels"] for event in samples)


@each_task
def test_stopped_at_any_step_it_goes_on_exactly(tmp_path: Path, tiny_bases: Bases, task: str) -> None:
    """Whatever interrupts it, and in portions that do not divide the batch, the adapter is the same to the bit."""
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    spec = spec_dir(
        straight,
        tiny_bases,
        task,
        steps=6,
        micro_batch_size=3,
        warmup_steps=2,
        lr_schedule="cosine",
        validation_fraction=0.0,
    )
    shutil.copytree(straight, stopped)
    run_here(straight, spec)
    for step in (1, 2, 5):
        assert run_here(stopped, spec, stop_at=step)[-1]["type"] == "stopped"
    run_here(stopped, spec)
    assert [event["resumed_from"] for event in events_of(stopped) if event["type"] == "started"] == [None, 1, 2, 5]
    assert (straight / ADAPTER).read_bytes() == (stopped / ADAPTER).read_bytes()


@each_task
@pytest.mark.parametrize(
    "change", [{"micro_batch_size": 3}, {"micro_batch_size": 1}, {"gradient_checkpointing": True}], ids=str
)
def test_memory_is_saved_without_another_gradient(
    tmp_path: Path, tiny_bases: Bases, task: str, change: dict[str, object], in_fp32: None
) -> None:
    spec = spec_dir(tmp_path, tiny_bases, task, label_dropout=0.5)
    changed = spec.model_copy(update={"hyperparameters": spec.hyperparameters.model_copy(update=change)})
    expected, gradients = first_gradients(tmp_path, spec), first_gradients(tmp_path, changed)
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-6, rtol=1e-4)


@each_task
def test_it_learns_on_a_packed_base(tmp_path: Path, tiny_bases: Bases, task: str) -> None:
    spec = spec_dir(
        tmp_path,
        tiny_bases,
        task,
        steps=12,
        learning_rate=1e-2,
        validation_fraction=0.25,
        base_precision="int8",
        validate_every=12,
    )
    events = run_here(tmp_path, spec)
    losses = {event["base"]: event["loss"] for event in events if event["type"] == "validation"}
    assert losses[False] < losses[True]
    assert events[-1]["type"] == "succeeded"


def first_gradients(folder: Path, spec: TrainingSpec) -> dict[str, Tensor]:
    """The gradients of the first step, by parameter."""
    trainer = make_trainer(folder, spec)
    trainer.task.load_frozen()
    train, _ = trainer._load_data()
    gradients: dict[str, Tensor] = {}

    def keep() -> None:
        found = {name: p.grad for name, p in trainer.state.parameters.items()}
        gradients.update({name: grad.clone() for name, grad in found.items() if grad is not None})

    trainer.state.update = keep  # type: ignore[method-assign]
    trainer._step(train)
    assert any(gradient.abs().max() > 1e-4 for gradient in gradients.values())
    return gradients
