"""Evaluations of a job while it trains: when, of what, each once, and without any effect on the adapter."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from difffit_core.errors import SpecError
from difffit_core.evaluation import measure
from difffit_core.evaluation.metrics import FeatureWeights
from difffit_core.evaluation.training import DONE
from difffit_core.spec.catalog import BaseModelEntry
from difffit_core.spec.job import TrainingSpec
from difffit_core.tasks.config import TaskName
from difffit_core.tasks.task import Examples
from difffit_core.training.__main__ import train
from difffit_core.training.stopping import StopRequest
from tests.difffit_core.spec_dirs import ADAPTER, events_of, make_trainer, run_here, write_spec_dir

EVALUATED: dict[str, Any] = {
    "steps": 5,
    "evaluate_every": 2,
    "evaluation_samples": 4,
    "evaluation_metrics": ["fd-mobilenet"],
    "validation_fraction": 0.2,
    "validate_every": 100,
    "sample_every": 100,
}


def write(folder: Path, base: BaseModelEntry, weights: FeatureWeights, **hyperparameters: Any) -> TrainingSpec:
    """A SPEC_DIR with those weights in its spec."""
    spec = write_spec_dir(folder, base, **(EVALUATED | hyperparameters)).model_copy(update={"feature_weights": weights})
    (folder / "spec.json").write_text(spec.model_dump_json())
    return spec


def evaluations(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if event["type"] == "evaluation"]


def test_the_curve_says_what_it_was_measured_with_and_the_adapter_is_as_without_it(
    tmp_path: Path, tiny_base: BaseModelEntry, weights: FeatureWeights
) -> None:
    spec = write(tmp_path / "evaluated", tiny_base, weights)
    found = evaluations(run_here(tmp_path / "evaluated", spec))
    assert [event["step"] for event in found] == [2, 4, 5]
    reference = {"dataset": spec.dataset.sha256, "split": "0.2"}
    for event in found:
        assert (event["samples"], event["reference"]) == (4, reference)
        (figure,) = event["figures"]
        assert (figure["metric"], figure["samples"], figure["reference_images"]) == ("fd-mobilenet", 4, 4)
        assert figure["reference"] == reference
        assert figure["value"] > 0
    assert len({event["figures"][0]["value"] for event in found}) == 3  # the weights differ
    plain = write(tmp_path / "plain", tiny_base, weights, evaluate_every=None)
    assert evaluations(run_here(tmp_path / "plain", plain)) == []
    with_them, without = (load_file(tmp_path / name / ADAPTER) for name in ("evaluated", "plain"))
    assert with_them.keys() == without.keys()
    assert all(torch.equal(tensor, without[name]) for name, tensor in with_them.items())


def test_a_stop_while_it_evaluates_loses_and_doubles_nothing(
    tmp_path: Path, tiny_base: BaseModelEntry, weights: FeatureWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "PORTION", 2)
    straight, stopped, elsewhere = (tmp_path / name for name in ("straight", "stopped", "elsewhere"))
    spec = write(straight, tiny_base, weights)
    shutil.copytree(straight, stopped)
    expected = evaluations(run_here(straight, spec))
    stop = StopRequest()
    trainer = make_trainer(stopped, spec, stop)
    sample, drawn = trainer.task.sample, []  # type: ignore[attr-defined]

    def stopping(examples: Examples, seed: int) -> list[Image.Image]:
        drawn.append((trainer.state.step, seed))
        if drawn[-1] == (4, 2):
            stop.on_signal()
        return sample(examples, seed)  # type: ignore[no-any-return]

    monkeypatch.setattr(trainer.task, "sample", stopping)
    trainer.run()
    assert drawn == [(0, 0), (2, 0), (2, 2), (4, 0), (4, 2)]  # the first is a preview
    assert events_of(stopped)[-1]["type"] == "stopped"
    assert [event["step"] for event in evaluations(events_of(stopped))] == [2]
    # Another machine gets the checkpoint, and is told what was reported.
    shutil.copytree(stopped, elsewhere, ignore=shutil.ignore_patterns("events.jsonl", "evaluations"))
    (elsewhere / DONE).write_text(json.dumps([2]))

    def without_times(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{name: value for name, value in event.items() if name != "time"} for event in events]

    assert without_times(evaluations(run_here(stopped, spec))) == without_times(expected)
    assert without_times(evaluations(run_here(elsewhere, spec))) == without_times(expected[1:])
    assert (straight / ADAPTER).read_bytes() == (stopped / ADAPTER).read_bytes() == (elsewhere / ADAPTER).read_bytes()


def test_a_stop_while_the_weights_are_exchanged_waits_for_it(
    tmp_path: Path, tiny_base: BaseModelEntry, weights: FeatureWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained values and their averages would be mixed otherwise, and the checkpoint be of neither."""
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    spec = write(straight, tiny_base, weights)
    shutil.copytree(straight, stopped)
    run_here(straight, spec)
    stop = StopRequest()
    trainer = make_trainer(stopped, spec, stop)
    exchange, exchanges = trainer.state._swap_with_ema, []

    def signalled() -> None:
        exchanges.append(trainer.state.step)
        if exchanges.count(4) == 1 and exchanges[-1] == 4:
            stop.on_signal()
        exchange()

    monkeypatch.setattr(trainer.state, "_swap_with_ema", signalled)
    trainer.run()
    assert events_of(stopped)[-1] == events_of(stopped)[-1] | {"type": "stopped", "step": 4}
    assert exchanges.count(4) == 2
    run_here(stopped, spec)
    assert (straight / ADAPTER).read_bytes() == (stopped / ADAPTER).read_bytes()


def test_what_was_reported_is_not_measured_again(
    tmp_path: Path, tiny_base: BaseModelEntry, weights: FeatureWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = write(tmp_path, tiny_base, weights, checkpoint_every=2)
    with (tmp_path / "events.jsonl").open("a") as log:
        log.write('{"type": "evaluation", "step": 4, "figures": []}\n{"type": "evalu')  # a trainer was killed here
        log.write("\n")
    assert [event["step"] for event in evaluations_of_lines(tmp_path, spec)] == [4, 2, 5]


def evaluations_of_lines(folder: Path, spec: TrainingSpec) -> list[dict[str, Any]]:
    """Of a log that has a broken line."""
    make_trainer(folder, spec).run()
    lines = (folder / "events.jsonl").read_text().splitlines()
    return evaluations([json.loads(line) for line in lines if line.endswith("}")])


@pytest.mark.parametrize("task", ["text-to-image", "controlnet"])
def test_pictures_of_captions_are_compared_with_them(
    tmp_path: Path, tiny_bases: dict[TaskName, BaseModelEntry], weights: FeatureWeights, task: TaskName
) -> None:
    metrics = ["clip-score", "fd-mobilenet"]
    spec = write(tmp_path, tiny_bases[task], weights, steps=2, evaluation_metrics=metrics, validation_fraction=0.3)
    (event,) = evaluations(run_here(tmp_path, spec))
    assert [figure["metric"] for figure in event["figures"]] == metrics
    assert event["step"] == 2


@pytest.mark.parametrize(
    ("change", "code", "named"),
    [
        ({"evaluation_metrics": ["fid"]}, "feature_weights_missing", "DIFFFIT_INCEPTION_WEIGHTS"),
        ({"validation_fraction": 0.0}, "too_few_images", "validation_fraction"),
    ],
)
def test_what_cannot_be_measured_fails_before_anything_is_computed(
    tmp_path: Path, tiny_base: BaseModelEntry, weights: FeatureWeights, change: dict[str, object], code: str, named: str
) -> None:
    write(tmp_path, tiny_base, weights, **change)
    assert train(tmp_path) == 1
    (event,) = events_of(tmp_path)
    assert (event["type"], event["code"]) == ("failed", code)
    assert named in event["message"]


def test_metrics_must_be_named_and_fit_the_task(tmp_path: Path, tiny_bases: dict[TaskName, BaseModelEntry]) -> None:
    wrong: list[tuple[TaskName, dict[str, Any], str]] = [
        ("class-conditional", {"evaluate_every": 2}, "fd-mobilenet"),
        ("class-conditional", {"evaluate_every": 2, "evaluation_metrics": ["clip-score"]}, "classes"),
        ("instruction", {"evaluate_every": 2, "evaluation_metrics": ["fid"]}, "makes none"),
    ]
    for number, (task, hyperparameters, named) in enumerate(wrong):
        with pytest.raises(SpecError, match=named) as caught:
            write_spec_dir(tmp_path / str(number), tiny_bases[task], **hyperparameters)
        assert caught.value.param == "hyperparameters.evaluation_metrics"
