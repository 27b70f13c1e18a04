"""A job of every method, end to end: it trains, writes an adapter, goes on where it was stopped, and generates."""

import shutil
from pathlib import Path

import pytest
import torch

from difffit_core.adapters.file import read_adapter
from difffit_core.sampling.registry import load_generator
from difffit_core.spec.catalog import BaseModelEntry
from difffit_core.spec.generation import GenerationSpec
from tests.difffit_core.spec_dirs import ADAPTER, run_here, write_spec_dir


@pytest.mark.parametrize("method", ["bitfit", "lora", "adapter-parallel", "adapter-sequential", "vpt-deep"])
def test_a_job_trains_resumes_exactly_and_generates(tmp_path: Path, tiny_base: BaseModelEntry, method: str) -> None:
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    spec = write_spec_dir(straight, tiny_base, method, steps=16, batch_size=8, learning_rate=1e-2, sample_every=16)
    shutil.copytree(straight, stopped)
    losses = {event["base"]: event["loss"] for event in run_here(straight, spec) if event["type"] == "validation"}
    assert losses[False] < losses[True]
    assert run_here(stopped, spec, stop_at=3)[-1]["type"] == "stopped"
    run_here(stopped, spec)
    assert (straight / ADAPTER).read_bytes() == (stopped / ADAPTER).read_bytes()
    adapter = read_adapter(straight / ADAPTER)
    assert adapter.header.method.type == method
    assert all(torch.isfinite(tensor).all() for tensor in adapter.tensors.values())
    wanted = GenerationSpec(labels=[0, 1], steps=2, guidance_scale=2.0, seed=1, scheduler="dpmsolver++")
    generator = load_generator(tiny_base, "cpu")
    plain = generator.images(wanted)
    generator.use(read_adapter(straight / ADAPTER))
    adapted = generator.images(wanted)
    assert adapted[0].tobytes() != plain[0].tobytes()
