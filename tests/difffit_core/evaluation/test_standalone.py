"""An evaluation by itself, of every kind of model that makes pictures, through the command that workers start."""

import sys
from pathlib import Path
from typing import Any

import pytest

from difffit_core.evaluation.__main__ import main
from difffit_core.evaluation.metrics import FeatureWeights
from difffit_core.evaluation.spec import EvaluationSpec, StandaloneEvaluation
from difffit_core.spec.catalog import BaseModelEntry
from difffit_core.tasks.config import TaskName
from tests.difffit_core.spec_dirs import ADAPTER, events_of, run_here, write_pictures, write_spec_dir


def write_evaluation(folder: Path, base: BaseModelEntry, weights: FeatureWeights, metrics: list[str], **values: Any) -> None:
    """An evaluation's folder with 20 pictures for the task of the base, 6 of which are held out."""
    (folder / "dataset").mkdir(parents=True, exist_ok=True)
    task = base.tasks[0]
    summary = write_pictures(folder / "dataset", task)
    settings = {"metrics": metrics, "samples": 4, "steps": 1, "guidance_scale": 2.0, "seed": 5, "scheduler": "ddim"}
    spec = EvaluationSpec.model_validate(settings | {"validation_fraction": 0.3} | values)
    asked = StandaloneEvaluation(spec=spec, task=task, base=base, dataset_sha256=summary.sha256, feature_weights=weights)
    (folder / "evaluation.json").write_text(asked.model_dump_json())


def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, dict[str, Any]]:
    """The exit code and the last event."""
    monkeypatch.setattr(sys, "argv", ["evaluation", str(folder)])
    monkeypatch.setenv("DIFFFIT_DEVICE", "cpu")
    return main(), events_of(folder)[-1]


@pytest.mark.parametrize(
    ("task", "metrics"),
    [
        ("text-to-image", ["clip-score", "fd-mobilenet"]),
        ("controlnet", ["clip-score"]),
    ],
)
def test_models_of_captions_are_evaluated(
    tmp_path: Path,
    tiny_bases: dict[TaskName, BaseModelEntry],
    weights: FeatureWeights,
    monkeypatch: pytest.MonkeyPatch,
    task: TaskName,
    metrics: list[str],
) -> None:
    write_evaluation(tmp_path, tiny_bases[task], weights, metrics)
    code, event = run(tmp_path, monkeypatch)
    assert (code, event["type"]) == (0, "evaluation")
    assert [figure["metric"] for figure in event["figures"]] == metrics
    assert [figure["samples"] for figure in event["figures"]] == [4] * len(metrics)


def test_an_adapter_is_evaluated_as_its_job_evaluates_it_at_the_end(
    tmp_path: Path, tiny_base: BaseModelEntry, weights: FeatureWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, folder = tmp_path / "job", tmp_path / "evaluation"
    base = tiny_base.model_copy(update={"family": "dit"})
    measured = {"evaluate_every": 100, "evaluation_samples": 4, "evaluation_metrics": ["fd-mobilenet"]}
    spec = write_spec_dir(job, base, steps=2, validation_fraction=0.3, **measured)  # type: ignore[arg-type]
    events = run_here(job, spec.model_copy(update={"feature_weights": weights}))
    (expected,) = [event for event in events if event["type"] == "evaluation"]
    h = spec.hyperparameters
    same = {"steps": h.sample_steps, "guidance_scale": h.guidance_scale, "seed": spec.seed}
    write_evaluation(folder, base, weights, ["fd-mobilenet"], **same, scheduler=spec.defaults.scheduler)
    (folder / "adapter.safetensors").write_bytes((job / ADAPTER).read_bytes())
    code, event = run(folder, monkeypatch)
    assert code == 0
    (ours,), (theirs,) = event["figures"], expected["figures"]
    assert ours == theirs | {"value": pytest.approx(theirs["value"], rel=1e-2)}


def test_what_is_wrong_is_an_event(
    tmp_path: Path, tiny_base: BaseModelEntry, weights: FeatureWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base's classes are others than the dataset's."""
    write_evaluation(tmp_path, tiny_base, weights, ["fd-mobilenet"])
    code, event = run(tmp_path, monkeypatch)
    assert (code, event["type"], event["code"], event["param"]) == (1, "failed", "unknown_label", "dataset")
    (tmp_path / "evaluation.json").write_text("{}")
    code, event = run(tmp_path, monkeypatch)
    assert (code, event["code"]) == (1, "evaluation_failed")
