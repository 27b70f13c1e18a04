"""What drawing a batch costs."""

from pathlib import Path

import pytest
import torch

from difffit_core.spec.catalog import BaseModelEntry
from difffit_core.training.state import TrainingState
from tests.difffit_core.spec_dirs import write_spec_dir


@pytest.mark.parametrize("sampler", ["balanced", "uniform"])
def test_every_order_is_drawn_once_in_its_epoch(
    tmp_path: Path, tiny_base: BaseModelEntry, monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    """However many batches share it, and however large the class is."""
    batch, steps, classes, examples = 5, 60, 10, 10_000
    hyperparameters = write_spec_dir(tmp_path, tiny_base, batch_size=batch, sampler=sampler).hyperparameters
    state = TrainingState({"w": torch.nn.Parameter(torch.zeros(1))}, hyperparameters, seed=1)
    buckets = [[torch.arange(number * examples, (number + 1) * examples) for number in range(classes)]]
    shuffled, randperm = [], torch.randperm

    def counted(count: int, *, generator: torch.Generator) -> torch.Tensor:
        shuffled.append(count)
        return randperm(count, generator=generator)

    monkeypatch.setattr(torch, "randperm", counted)
    seen = []
    for state.step in range(steps):
        seen += state.batch_indices(buckets)[1].tolist()
    assert len(set(seen)) == batch * steps
    epochs_of_classes = batch * steps // classes
    expected = [classes] * epochs_of_classes + [examples] * classes if sampler == "balanced" else [classes * examples]
    assert sorted(shuffled) == expected
