"""The trainer on a tiny base: it learns, stops, resumes exactly, says what happened, and writes an adapter that works."""

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from difffit_core.adapters.file import read_adapter
from difffit_core.data.dataset import Item
from difffit_core.errors import AdapterError, TrainingDiverged
from difffit_core.runtime.devices import total_memory
from difffit_core.runtime.fake_weights import without_weights
from difffit_core.sampling.registry import load_generator
from difffit_core.spec.catalog import BaseModelEntry
from difffit_core.spec.generation import GenerationSpec
from difffit_core.tasks.task import Examples
from difffit_core.training import initial_values
from difffit_core.training.__main__ import train
from difffit_core.training.checkpoints import TENSORS, check_whole, newest_first, step_name
from difffit_core.training.state import TrainingState, learning_rate
from difffit_core.training.stopping import StopRequest
from tests.difffit_core.cases import assert_same_training
from tests.difffit_core.spec_dirs import ADAPTER, events_of, make_trainer, run_here, write_spec_dir


@pytest.mark.parametrize("method", ["difffit", "full"])
def test_validation_loss_falls_below_the_base(tmp_path: Path, tiny_base: BaseModelEntry, method: str) -> None:
    spec = write_spec_dir(tmp_path, tiny_base, method, steps=60, batch_size=8, learning_rate=1e-2)
    events = run_here(tmp_path, spec)
    losses = {event["base"]: event["loss"] for event in events if event["type"] == "validation"}
    assert losses[False] < 0.8 * losses[True]
    assert events[-1]["type"] == "succeeded"


def test_a_base_that_learns_its_variance_trains_too(tmp_path: Path, tiny_learned_base: BaseModelEntry) -> None:
    spec = write_spec_dir(tmp_path, tiny_learned_base, steps=60, batch_size=8, learning_rate=1e-2)
    losses = [event["loss"] for event in run_here(tmp_path, spec) if event["type"] == "validation"]
    assert losses[-1] < losses[0]


def test_events_tell_the_whole_story(tmp_path: Path, tiny_base: BaseModelEntry) -> None:
    events = run_here(tmp_path, write_spec_dir(tmp_path, tiny_base, steps=6))
    assert [event["type"] for event in events if event["type"] in {"started", "adapter", "succeeded"}] == [
        "started",
        "adapter",
        "succeeded",
    ]
    started, last_progress = events[0], [event for event in events if event["type"] == "progress"][-1]
    assert (started["total_steps"], started["resumed_from"]) == (6, None)
    assert last_progress["step"] == 6
    assert last_progress["seconds_remaining"] == 0
    for event in events:
        if "path" in event:
            assert (tmp_path / event["path"]).exists()
    adapter = next(event for event in events if event["type"] == "adapter")
    assert adapter["class_names"] == ["star", "tree"]
    assert adapter["bytes"] == (tmp_path / ADAPTER).stat().st_size


@pytest.mark.parametrize(("method", "sampler"), [("difffit", "balanced"), ("lora", "uniform"), ("full", "uniform")])
def test_paused_and_taken_over_it_is_the_uninterrupted_run(
    tmp_path: Path, tiny_base: BaseModelEntry, method: str, sampler: str, precision: str, device: torch.device
) -> None:
    """Parameters, optimiser, EMA, data order and random numbers; another worker has the checkpoints and nothing else."""
    straight, paused, taken_over = tmp_path / "straight", tmp_path / "paused", tmp_path / "taken-over"
    spec = write_spec_dir(straight, tiny_base, method, steps=9, sampler=sampler)
    shutil.copytree(straight, paused)
    shutil.copytree(straight, taken_over)
    run_here(straight, spec, device=device)
    for step in (4, 6):
        assert run_here(paused, spec, stop_at=step, device=device)[-1]["type"] == "stopped"
    assert not (paused / ADAPTER).exists()
    shutil.copytree(paused / "checkpoints", taken_over / "checkpoints")
    started = [
        event for event in (*events_of(paused), *run_here(taken_over, spec, device=device)) if event["type"] == "started"
    ]
    assert [event["resumed_from"] for event in started] == [None, 4, 6]
    assert_same_training(straight / ADAPTER, taken_over / ADAPTER, device)


def test_a_stop_while_validating_after_the_last_step_loses_no_event(
    tmp_path: Path, tiny_base: BaseModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = write_spec_dir(tmp_path, tiny_base, steps=4, validate_every=4)
    stop = StopRequest()
    trainer = make_trainer(tmp_path, spec, stop)
    held_out_loss = trainer._held_out_loss

    def stopped_at_the_end(held_out: list[Examples]) -> float:
        if trainer.state.step == 4:
            stop.on_signal()
        return held_out_loss(held_out)

    monkeypatch.setattr(trainer, "_held_out_loss", stopped_at_the_end)
    trainer.run()
    assert events_of(tmp_path)[-1] == events_of(tmp_path)[-1] | {"type": "stopped", "step": 4}
    resumed = run_here(tmp_path, spec)
    assert [event["step"] for event in resumed if event["type"] == "validation"] == [0, 4]
    assert resumed[-1]["type"] == "succeeded"


def test_different_seeds_train_different_adapters(tmp_path: Path, tiny_base: BaseModelEntry) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    spec = write_spec_dir(one, tiny_base, steps=3)
    shutil.copytree(one, two)
    run_here(one, spec)
    run_here(two, spec.model_copy(update={"seed": 2}))
    assert (one / ADAPTER).read_bytes() != (two / ADAPTER).read_bytes()


def test_every_trained_tensor_moves_and_is_in_the_adapter(tmp_path: Path, tiny_base: BaseModelEntry) -> None:
    spec = write_spec_dir(tmp_path, tiny_base, steps=5, learning_rate=1e-2)
    trainer = make_trainer(tmp_path, spec)
    before = {name: parameter.detach().clone() for name, parameter in trainer.state.parameters.items()}
    frozen = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if not p.requires_grad}
    trainer.run()
    _, tensors = read_adapter(tmp_path / ADAPTER)
    assert tensors.keys() == before.keys()
    # A key bias shifts every attention score of a query alike, so that softmax takes it away: its gradient is zero.
    still = {name for name, tensor in tensors.items() if torch.equal(tensor, before[name])}
    assert all("to_k.bias" in name for name in still)
    after = dict(trainer.model.named_parameters())
    assert all(torch.equal(after[name], value) for name, value in frozen.items())


def test_adapter_generates_its_own_classes(tmp_path: Path, tiny_base: BaseModelEntry) -> None:
    run_here(tmp_path, write_spec_dir(tmp_path, tiny_base, steps=2))
    generator = load_generator(tiny_base, "cpu")
    generator.use(read_adapter(tmp_path / ADAPTER))
    assert generator.class_names == ["star", "tree"]
    spec = GenerationSpec(labels=[0, 1], steps=2, guidance_scale=2.0, seed=3, scheduler="ddim")
    assert [picture.size for picture in generator.images(spec)] == [(16, 16), (16, 16)]


def test_sigterm_checkpoints_and_ends_cleanly(tmp_path: Path, tiny_base: BaseModelEntry) -> None:
    write_spec_dir(tmp_path, tiny_base, steps=100_000, validation_fraction=0.0, sample_every=100_000, checkpoint_every=100_000)
    environment = os.environ | {"DIFFFIT_DEVICE": "cpu"}
    with subprocess.Popen(
        [sys.executable, "-m", "difffit_core.training", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        child.stdin.write(f"{tmp_path}\n".encode())
        child.stdin.flush()
        while not any(event["type"] == "progress" for event in _events_so_far(tmp_path)):
            assert child.poll() is None
        child.send_signal(signal.SIGTERM)
        assert child.wait() == 0
    last = events_of(tmp_path)[-1]
    assert last["type"] == "stopped"
    assert (tmp_path / "checkpoints" / f"step-{last['step']:06d}" / "state.safetensors").exists()


def _events_so_far(folder: Path) -> list[dict[str, Any]]:
    path = folder / "events.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def test_a_standby_trainer_ends_when_nobody_needs_it() -> None:
    done = subprocess.run([sys.executable, "-m", "difffit_core.training", "-"], input=b"", capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b"ready\n")


def test_a_loss_that_is_no_number_fails_with_advice(tmp_path: Path, tiny_base: BaseModelEntry) -> None:
    spec = write_spec_dir(tmp_path, tiny_base, steps=50)
    broken = tmp_path / "base"
    shutil.copytree(tiny_base.path, broken)
    config = broken / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"scaling_factor": float("inf")}))
    (tmp_path / "spec.json").write_text(spec.model_copy(update={"base_model_path": str(broken)}).model_dump_json())
    assert train(tmp_path) == 1
    failed = events_of(tmp_path)[-1]
    assert (failed["type"], failed["code"], failed["param"]) == ("failed", "diverged", "hyperparameters.learning_rate")
    assert "Try a lower learning rate than" in failed["message"]


def test_a_spec_that_cannot_be_read_fails_with_an_event(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text("{}")
    assert train(tmp_path) == 1
    assert events_of(tmp_path)[-1]["code"] == "invalid_spec"


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def garble(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def empty(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize(("damage", "damaged"), [(cut, 1), (garble, 1), (empty, 2), (Path.unlink, 2)])
def test_damaged_checkpoints_cost_steps_and_nothing_else(
    tmp_path: Path, tiny_base: BaseModelEntry, damage: Callable[[Path], None], damaged: int
) -> None:
    """Of two checkpoints the newer, or both: then training begins anew."""
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    spec = write_spec_dir(straight, tiny_base, steps=6, checkpoint_every=10)
    shutil.copytree(straight, stopped)
    run_here(straight, spec)
    for step in (2, 4):
        run_here(stopped, spec, stop_at=step)
    steps = [4, 2][:damaged]
    for step in steps:
        damage(stopped / "checkpoints" / step_name(step) / TENSORS)
    before = len(events_of(stopped))
    told = run_here(stopped, spec)[before:]
    assert [event["step"] for event in told if event["type"] == "checkpoint_damaged"] == steps
    assert all("is damaged" in event["message"] for event in told if event["type"] == "checkpoint_damaged")
    assert [event["resumed_from"] for event in told if event["type"] == "started"] == [{1: 2, 2: None}[damaged]]
    assert (straight / ADAPTER).read_bytes() == (stopped / ADAPTER).read_bytes()


def test_a_checkpoint_is_written_anew_where_a_damaged_one_was(tmp_path: Path, tiny_base: BaseModelEntry) -> None:
    spec = write_spec_dir(tmp_path, tiny_base, steps=6)
    run_here(tmp_path, spec, stop_at=2)
    garble(tmp_path / "checkpoints" / step_name(2) / TENSORS)
    run_here(tmp_path, spec, stop_at=2)
    assert check_whole(tmp_path / "checkpoints" / step_name(2)) == 2


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path, tiny_base: BaseModelEntry) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    run_here(one, write_spec_dir(one, tiny_base, steps=6), stop_at=2)
    write_spec_dir(other, tiny_base, "bitfit", steps=6)
    shutil.copytree(one / "checkpoints", other / "checkpoints")
    assert train(other) == 1
    assert events_of(other)[-1]["code"] == "invalid_checkpoint"
    assert "of another training" in events_of(other)[-1]["message"]


def test_a_finite_loss_with_a_gradient_that_is_none_changes_and_saves_nothing(
    tmp_path: Path, tiny_base: BaseModelEntry
) -> None:
    spec = write_spec_dir(tmp_path, tiny_base, steps=9, checkpoint_every=2)
    trainer = make_trainer(tmp_path, spec)
    name, parameter = next(iter(trainer.state.parameters.items()))
    parameter.register_hook(lambda gradient: gradient * float("nan") if trainer.state.step == 4 else gradient)
    with pytest.raises(TrainingDiverged, match="The gradient became nan at step 5") as caught:
        trainer.run()
    assert caught.value.param == "hyperparameters.learning_rate"
    assert all(tensor.isfinite().all() for tensor in (*trainer.state.parameters.values(), *trainer.state.ema.values()))
    (newest, *_) = newest_first(tmp_path / "checkpoints")
    assert check_whole(newest) == trainer.state.step == 4
    assert torch.equal(load_file(newest / TENSORS)[f"parameter/{name}"], parameter)


def test_a_state_with_a_number_that_is_not_finite_is_not_saved(tmp_path: Path, tiny_base: BaseModelEntry) -> None:
    hyperparameters = write_spec_dir(tmp_path, tiny_base).hyperparameters
    state = TrainingState({"w": torch.nn.Parameter(torch.tensor([1.0, float("inf")]))}, hyperparameters, seed=0)
    with pytest.raises(TrainingDiverged, match="parameter/w"):
        state.save(tmp_path / step_name(0))
    assert not (tmp_path / step_name(0)).exists()


def test_the_optimisers_numbers_lie_where_it_wants_them_after_a_resume(tmp_path: Path, tiny_base: BaseModelEntry) -> None:
    """A fused one its step too, on the GPU; of the one here only shapes are there. A checkpoint is read on the CPU."""
    hyperparameters = write_spec_dir(tmp_path, tiny_base).hyperparameters
    with without_weights():
        parameter = torch.nn.Parameter(torch.zeros(3, device="cuda:0"))
        state = TrainingState({"w": parameter}, hyperparameters, seed=0)
        state.restore_moments({f"{kind}/w": torch.zeros(3) for kind in ("exp_avg", "exp_avg_sq")}, step=4)
        places = {name: str(tensor.device) for name, tensor in state.optimizer.state[parameter].items()}
    assert places == dict.fromkeys(("step", "exp_avg", "exp_avg_sq"), "cuda:0")


@pytest.mark.gpu
def test_out_of_memory_on_a_gpu_is_said_and_half_as_many_examples_at_a_time_fit(
    tmp_path: Path, tiny_base: BaseModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the worker goes on after it: from the checkpoint, with the same batch in smaller portions."""
    monkeypatch.setenv("DIFFFIT_DEVICE", "cuda")
    settings: dict[str, Any] = {"batch_size": 4096, "validation_fraction": 0.0, "sample_every": 100}
    spec = write_spec_dir(tmp_path, tiny_base, steps=3, **settings)
    run_here(tmp_path, spec, stop_at=1, device=torch.device("cuda"))
    most = torch.cuda.max_memory_reserved()
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.75 * most / total_memory(torch.device("cuda")))
    try:
        assert train(tmp_path) == 1
        failed = events_of(tmp_path)[-1]
        assert (failed["code"], failed["param"]) == ("out_of_memory", "hyperparameters.micro_batch_size")
        gc.collect()
        torch.cuda.empty_cache()
        halved = spec.hyperparameters.model_copy(update={"micro_batch_size": 2048})
        (tmp_path / "spec.json").write_text(spec.model_copy(update={"hyperparameters": halved}).model_dump_json())
        assert train(tmp_path) == 0
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert [event["resumed_from"] for event in events_of(tmp_path) if event["type"] == "started"] == [None, 1, 1]
    assert events_of(tmp_path)[-1]["type"] == "succeeded"


def test_ema_follows_short_runs(tmp_path: Path, tiny_base: BaseModelEntry) -> None:
    """A decay of 0.9999 alone would leave a run of a few steps at its first values."""
    spec = write_spec_dir(tmp_path, tiny_base, steps=5)
    parameter = torch.nn.Parameter(torch.zeros(1))
    state = TrainingState({"w": parameter}, spec.hyperparameters, seed=0)
    for _ in range(50):
        parameter.grad = -torch.ones(1)
        state.update()
    assert 0.5 * parameter.item() < state.ema["w"].item() < parameter.item()


def test_batches_run_through_every_image_before_any_comes_again(tmp_path: Path, tiny_base: BaseModelEntry) -> None:
    spec = write_spec_dir(tmp_path, tiny_base, batch_size=4)
    state = TrainingState({"w": torch.nn.Parameter(torch.zeros(1))}, spec.hyperparameters, seed=5)
    seen = []
    for step in range(5):
        state.step = step
        seen += state.batch_indices([[torch.arange(7), torch.arange(7, 10)]])[1].tolist()
    assert sorted(seen[:10]) == list(range(10))
    assert sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]


def test_a_balanced_sampler_gives_every_class_its_turn(tmp_path: Path, tiny_base: BaseModelEntry) -> None:
    """And within a class every image before any comes again; the numbers depend on seed and step alone."""
    hyperparameters = write_spec_dir(tmp_path, tiny_base, batch_size=5, sampler="balanced").hyperparameters
    examples = Examples([Item(sha256=str(i), label="rare" if i in (3, 8) else f"class {i % 2}") for i in range(12)], {})

    def batches(seed: int, steps: range) -> list[list[int]]:
        state = TrainingState({"w": torch.nn.Parameter(torch.zeros(1))}, hyperparameters, seed)
        found = []
        for state.step in steps:
            found.append(state.batch_indices([examples.classes])[1].tolist())
        return found

    seen = list(chain(*batches(5, range(12))))
    counts = Counter(examples.items[i].label for i in seen)
    assert counts == {"rare": 20, "class 0": 20, "class 1": 20}
    rare = [i for i in seen if i in (3, 8)]
    assert all(set(pair) == {3, 8} for pair in zip(rare[::2], rare[1::2], strict=True))
    assert batches(5, range(7, 12)) == batches(5, range(12))[7:]
    assert seen != list(chain(*batches(6, range(12))))


def test_learning_rate_warms_up_holds_and_decays(tmp_path: Path, tiny_base: BaseModelEntry) -> None:
    h = write_spec_dir(
        tmp_path, tiny_base, steps=100, warmup_steps=10, learning_rate=1e-3, lr_schedule="warmup-stable-decay"
    ).hyperparameters
    rates = [learning_rate(h, step) for step in range(1, 101)]
    assert rates[0] == pytest.approx(1e-4)
    assert rates[9:80] == [pytest.approx(1e-3)] * 71
    assert rates[-1] == pytest.approx(1e-3 / 20)
    assert rates[80:] == sorted(rates[80:], reverse=True)


def test_checkpoints_hold_tensors_only(tmp_path: Path, tiny_base: BaseModelEntry) -> None:
    run_here(tmp_path, write_spec_dir(tmp_path, tiny_base, steps=6), stop_at=2)
    files = sorted(file.name for file in (tmp_path / "checkpoints" / "step-000002").iterdir())
    assert files == ["state.json", "state.safetensors"]
    kinds = {name.split("/")[0] for name in load_file(tmp_path / "checkpoints" / "step-000002" / "state.safetensors")}
    assert kinds == {"parameter", "ema", "exp_avg", "exp_avg_sq"}


def test_training_begins_with_another_adapters_values(tmp_path: Path, tiny_base: BaseModelEntry) -> None:
    """At the first validation the model is what the first training ended with; the optimiser and the step are new."""
    first, second = tmp_path / "first", tmp_path / "second"
    before = run_here(first, write_spec_dir(first, tiny_base, steps=8, learning_rate=1e-2))
    spec = write_spec_dir(second, tiny_base, steps=4)
    shutil.copy(first / ADAPTER, second / initial_values.FILE)
    events = run_here(second, spec)
    losses = [event["loss"] for event in events if event["type"] == "validation"]
    assert losses[0] == [event["loss"] for event in before if event["type"] == "validation"][-1]
    assert [event["base"] for event in events if event["type"] == "validation"] == [False] * len(losses)
    assert events[0]["resumed_from"] is None
    assert events[-1]["type"] == "succeeded"


def test_values_of_another_method_or_base_are_refused(tmp_path: Path, tiny_base: BaseModelEntry) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    run_here(first, write_spec_dir(first, tiny_base, steps=1))
    spec = write_spec_dir(second, tiny_base, "bitfit", steps=1)
    shutil.copy(first / ADAPTER, second / initial_values.FILE)
    with pytest.raises(AdapterError) as refused:
        run_here(second, spec)
    assert (refused.value.code, refused.value.param) == ("wrong_init_adapter", "init_adapter")
    state = make_trainer(first, write_spec_dir(tmp_path / "third", tiny_base, steps=1)).state
    with pytest.raises(AdapterError) as refused:
        initial_values.begin_with(state, first / ADAPTER, spec, "0" * 64, ["star", "tree"])
    assert refused.value.code == "wrong_base"
