"""Two processes under torchrun train what one does, one of them speaks, and both end when asked to."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from difffit_core.errors import SpecError
from difffit_core.runtime.processes import Processes
from difffit_core.spec.catalog import BaseModelEntry
from difffit_core.training.events import EventLog
from difffit_core.training.stopping import StopRequest
from difffit_core.training.trainer import Trainer
from tests.difffit_core.spec_dirs import ADAPTER, CPU, events_of, run_here, write_spec_dir

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
ENVIRONMENT = os.environ | {"DIFFFIT_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}


def without_key_biases(adapter: Path) -> dict[str, torch.Tensor]:
    """Softmax takes a key bias away: its gradient is rounding, which Adam blows up to whole steps."""
    return {name: tensor for name, tensor in load_file(adapter).items() if "to_k.bias" not in name}


@pytest.mark.usefixtures("in_fp32")
def test_two_processes_train_what_one_does(tmp_path: Path, tiny_base: BaseModelEntry) -> None:
    """A batch of 5 in portions of 2: one process computes three examples and the other two."""
    one, two = tmp_path / "one", tmp_path / "two"
    spec = write_spec_dir(one, tiny_base, steps=6, batch_size=5, micro_batch_size=2, learning_rate=1e-3)
    shutil.copytree(one, two)
    expected = run_here(one, spec)
    subprocess.run([*TORCHRUN, "tests.difffit_core.train_in_fp32", str(two)], env=ENVIRONMENT, check=True)
    told = events_of(two)
    kinds = ("started", "validation", "sample", "checkpoint", "adapter", "succeeded")
    assert [e["type"] for e in told if e["type"] in kinds] == [e["type"] for e in expected if e["type"] in kinds]
    losses = [[event["loss"] for event in events if event["type"] == "validation"] for events in (expected, told)]
    assert losses[0] == pytest.approx(losses[1], abs=2e-5)
    ours, theirs = without_key_biases(one / ADAPTER), without_key_biases(two / ADAPTER)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(theirs[name], tensor, atol=2e-5, rtol=1e-4)


def test_a_stop_reaches_every_process_at_the_same_step(tmp_path: Path, tiny_base: BaseModelEntry) -> None:
    write_spec_dir(tmp_path, tiny_base, steps=100_000, validation_fraction=0.0, sample_every=100_000, checkpoint_every=100_000)
    with subprocess.Popen([*TORCHRUN, "difffit_core.training", str(tmp_path)], env=ENVIRONMENT) as launcher:
        while not any(event["type"] == "progress" for event in so_far(tmp_path)):
            assert launcher.poll() is None
        launcher.send_signal(signal.SIGTERM)
        launcher.wait()
    last = events_of(tmp_path)[-1]
    assert last["type"] == "stopped"
    assert (tmp_path / "checkpoints" / f"step-{last['step']:06d}" / "state.safetensors").exists()


def so_far(folder: Path) -> list[dict[str, Any]]:
    with contextlib.suppress(FileNotFoundError):
        text = (folder / "events.jsonl").read_text()
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    return []


def test_more_processes_than_examples_of_a_batch_are_refused(tmp_path: Path, tiny_base: BaseModelEntry) -> None:
    processes = Processes(CPU)
    processes.count = 8
    spec = write_spec_dir(tmp_path, tiny_base, batch_size=4)
    with pytest.raises(SpecError, match="8 processes") as caught:
        Trainer(spec, tmp_path, processes, EventLog(tmp_path / "events.jsonl"), StopRequest())
    assert caught.value.param == "hyperparameters.batch_size"
