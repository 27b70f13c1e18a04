"""Plans against the trainings that they foretell, on every kind of tiny base."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from difffit_core.errors import DiffFitError
from difffit_core.planning.estimate import Estimate
from difffit_core.planning.plan import estimate, follow_step
from difffit_core.runtime.devices import device_name, total_memory
from difffit_core.runtime.fake_weights import is_weightless
from difffit_core.runtime.live_bytes import LiveBytes, storage_bytes
from difffit_core.spec.catalog import BaseModelEntry
from difffit_core.tasks.registry import ready_task
from tests.difffit_core.spec_dirs import CASES, CPU, TASKS, make_trainer, write_spec_dir

Plan = Callable[..., Estimate]


@pytest.fixture
def plan(tmp_path: Path, tiny_bases: dict[str, BaseModelEntry]) -> Plan:
    def of(task: str = "class-conditional", method: str = "difffit", **hyperparameters: object) -> Estimate:
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        spec = write_spec_dir(folder, tiny_bases[task], method, CASES[task][1], **hyperparameters)
        return estimate(spec, CPU)

    return of


@pytest.mark.parametrize("task", TASKS)
def test_what_is_trained_is_counted_and_measured_as_in_the_training_itself(
    task: str, tmp_path: Path, tiny_bases: dict[str, BaseModelEntry]
) -> None:
    spec = write_spec_dir(tmp_path / "job", tiny_bases[task], "difffit", CASES[task][1])
    found = estimate(spec, CPU)
    trainer = make_trainer(tmp_path / "job", spec)
    trainer.task.load_frozen()
    trained = trainer.state.parameters.values()
    tensors = [t for module in trainer.task.modules() for t in (*module.parameters(), *module.buffers())]
    assert found.trained_parameters == sum(p.numel() for p in trained)
    assert found.total_parameters == sum(p.numel() for p in {*trainer.model.parameters(), *trained})
    assert found.adapter_bytes == found.memory.trained_values == found.memory.ema == storage_bytes(trainer.state.ema.values())
    assert found.memory.frozen_weights == storage_bytes(tensors) - storage_bytes(trained)
    real = follow_step(trainer.task, 4)
    planned = 4 * found.memory.activations_per_example + found.memory.activations_fixed
    assert planned == pytest.approx(real.activations, rel=0.02)


@pytest.mark.gpu
def test_a_gpu_is_planned_for_in_its_own_precision(tmp_path: Path, tiny_base: BaseModelEntry) -> None:
    spec, gpu = write_spec_dir(tmp_path / "job", tiny_base), torch.device("cuda")
    found = estimate(spec, gpu)
    assert (found.device, found.memory.allocator, found.memory.error) == (device_name(gpu), 0, None)
    real = follow_step(ready_task(spec, tiny_base, gpu), 4)
    planned = 4 * found.memory.activations_per_example + found.memory.activations_fixed
    assert planned == pytest.approx(real.activations, rel=0.02)


def test_no_weights_are_read(tmp_path: Path, tiny_base: BaseModelEntry) -> None:
    shutil.copytree(tiny_base.path, tmp_path / "base", ignore=shutil.ignore_patterns("*.safetensors"))
    base = tiny_base.model_copy(update={"path": tmp_path / "base"})
    assert estimate(write_spec_dir(tmp_path / "job", base), CPU).total_parameters > 0
    assert not is_weightless()


def test_each_part_answers_to_the_setting_that_it_depends_on(plan: Plan) -> None:
    plain = plan()
    full, packed = plan(method="full"), plan(base_precision="int8")
    assert full.memory.gradients > plain.memory.gradients
    assert full.memory.total > plain.memory.total
    assert packed.memory.frozen_weights < plain.memory.frozen_weights
    assert packed.total_parameters == plain.total_parameters
    assert plan(gradient_checkpointing=True).memory.activations_per_example < plain.memory.activations_per_example
    assert plan(resolution=32).memory.activations_per_example > 2 * plain.memory.activations_per_example
    assert plan("instruction", max_tokens=32).memory.activations_per_example < (
        plan("instruction", max_tokens=64).memory.activations_per_example
    )


def test_twice_the_batch_has_twice_the_activations(plan: Plan) -> None:
    small, large = plan(batch_size=16), plan(batch_size=32)
    assert large.memory.activations_per_example == small.memory.activations_per_example
    assert large.memory.total - small.memory.total == pytest.approx(1.6 * 16 * small.memory.activations_per_example, rel=0.1)


def test_a_batch_in_portions_takes_less_and_keeps_the_gradients(plan: Plan) -> None:
    whole, portions = plan(method="full", batch_size=32), plan(method="full", batch_size=32, micro_batch_size=2)
    assert portions.memory.total < whole.memory.total
    assert (
        portions.memory.total
        == sum(
            getattr(portions.memory, part)
            for part in (
                "frozen_weights",
                "trained_values",
                "optimizer",
                "ema",
                "gradients",
                "examples",
                "activations_fixed",
                "allocator",
            )
        )
        + 2 * portions.memory.activations_per_example
    )


def test_the_largest_portion_that_fits_is_found_by_halving_the_batch(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    roomy = plan(batch_size=24)
    assert (roomy.device, roomy.device_bytes) == (device_name(CPU), total_memory(CPU))
    assert roomy.largest_micro_batch_size == 24
    memory = roomy.memory
    room = memory.total - int(1.6 * 14 * memory.activations_per_example)  # for ten examples, not for twelve
    monkeypatch.setattr("difffit_core.planning.plan.total_memory", lambda _: int(room / 0.9))
    assert plan(batch_size=24).largest_micro_batch_size == 6
    monkeypatch.setattr("difffit_core.planning.plan.total_memory", lambda _: memory.frozen_weights)
    assert plan(batch_size=24).largest_micro_batch_size is None


def test_a_base_without_its_configs_is_said_to_be_so(tmp_path: Path, tiny_base: BaseModelEntry) -> None:
    shutil.copytree(tiny_base.path, tmp_path / "base")
    base = tiny_base.model_copy(update={"path": tmp_path / "base"})
    spec = write_spec_dir(tmp_path / "job", base)
    (tmp_path / "base" / "transformer" / "config.json").unlink()
    with pytest.raises(DiffFitError, match="cannot be"):
        estimate(spec, CPU)


def test_live_bytes_are_followed_to_their_peak() -> None:
    weight = nn.Parameter(torch.ones(1000))
    there = torch.ones(1000)

    def loss() -> Tensor:
        product = weight * there  # 4000 bytes, kept by the square
        square = product * product
        return square.sum()

    with LiveBytes([weight, there], [weight]) as live:
        loss().backward()
    assert 12_000 <= live.peak <= 17_000
    assert live.peak_activations <= live.peak
    with LiveBytes([weight, there], [weight]) as idle:
        there.view(10, 100).t()
    assert idle.peak == 0


def test_the_memory_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = total_memory(CPU)
    limit = tmp_path / "memory.max"
    monkeypatch.setattr("difffit_core.runtime.devices.CONTAINER_LIMITS", (limit,))
    limit.write_text("1000000\n")
    assert total_memory(CPU) == 1_000_000
    limit.write_text("max\n")
    assert total_memory(CPU) >= machine
