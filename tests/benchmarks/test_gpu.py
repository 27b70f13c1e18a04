"""The command that measures everything on a GPU, in small on the CPU: every section runs, and its figures make sense."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.__main__ import run_in_time
from benchmarks.gpu.plans import fitted
from benchmarks.gpu.report import DOCS
from benchmarks.gpu.step import METHODS, reached
from tests.waiting import wait_for

Figures = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one run of all sections has written."""
    out = tmp_path_factory.mktemp("gpu")
    command = [sys.executable, "-m", "benchmarks.gpu", "--small", "--minutes", "30", "--out", str(out)]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return out


@pytest.fixture(scope="module")
def figures(folder: Path) -> Figures:
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


def test_every_section_is_done_and_says_where_and_with_what(figures: Figures) -> None:
    assert set(figures) == {"tests", "step", "plans", "service"}
    for found in figures.values():
        assert found["status"] == "done"
        assert found["small"]
        assert "--small" in found["command"]
        assert found["machine"]["device"]
        assert found["machine"]["packages"]["torch"]


def test_the_tests_of_a_gpu_are_collected_and_none_fails(figures: Figures) -> None:
    found = figures["tests"]
    assert found["failed"] == 0
    assert found["passed"] + found["skipped"] == found["collected"] > 0


def test_a_step_is_measured_with_every_method_and_on_every_kind_of_base(figures: Figures) -> None:
    rows = figures["step"]["cases"]
    assert {row["method"] for row in rows if row["base"] == "dit-small"} == set(METHODS)
    assert {row["base"] for row in rows} == {"dit-small", "sd-small", "llama-small"}
    for row in rows:
        assert row["seconds"] > 0
        assert 0 < row["matmul_share"] < 1
    of_dit = {row["method"]: row["tflops_per_example"] for row in rows if row["base"] == "dit-small"}
    assert of_dit["difffit"] < 0.75 * of_dit["full"]  # no gradient of a frozen matrix
    assert figures["step"]["profile"]["kernels"]


def test_goals_compare_what_is_alike() -> None:
    def row(method: str, batch: int, seconds: float, peak: int, compiled: bool = False) -> dict[str, Any]:
        own = {"base": "dit", "method": method, "batch": batch, "compiled": compiled, "matmul_share": batch / 1000}
        return own | {"seconds": seconds, "examples_per_second": batch / seconds, "peak_bytes": peak}

    rows = [row("difffit", 32, 1.0, 90), row("difffit", 64, 1.5, 160), row("full", 32, 2.0, 300)]
    rows += [row("lora-r8", 32, 1.0, 100), row("full", 64, 9.0, 300, compiled=True)]
    assert reached(rows) == {"matmul_share": 0.064, "ratio_to_full": [0.5], "memory_to_lora": [0.9]}


def test_plans_are_foretold_and_measured(figures: Figures) -> None:
    for row in figures["plans"]["cases"]:
        assert row["planned_bytes"] > row["resident_bytes"] > 0
        assert row["measured_bytes"] > 0


def test_the_share_for_the_allocator_is_fitted_on_one_half_and_judged_on_the_other() -> None:
    def row(part: str, resident: int, step: int, gaps: float) -> dict[str, Any]:
        measured = resident + (1 + gaps) * step
        own = {"part": part, "resident_bytes": resident, "step_bytes": step, "measured_bytes": measured}
        return own | {"planned_error": (resident + step) / measured - 1}

    found = fitted([row("fitted", 100, 300, 0.2), row("fitted", 50, 900, 0.2), row("judged", 0, 100, 0.1)])
    assert found["gaps"] == pytest.approx(0.2)
    assert found["fitted_error"] == pytest.approx(0, abs=1e-4)
    assert found["judged_error"] == pytest.approx(1.2 / 1.1 - 1, abs=1e-3)


def test_the_main_job_goes_through_the_service(figures: Figures) -> None:
    found = figures["service"]
    assert found["main_job"]["status"] == "succeeded"
    assert 0 < found["main_job"]["post_to_first_step_seconds"] < found["main_job"]["seconds"]
    assert found["pictures"]["adapter_again"]["status"] == "succeeded"


def test_the_report_puts_all_figures_into_the_page(folder: Path, tmp_path: Path) -> None:
    shutil.copy(DOCS / "performance.md", tmp_path)
    for _ in range(2):  # again over its own result
        command = [sys.executable, "-m", "benchmarks.gpu.report", str(folder), "--docs", str(tmp_path)]
        subprocess.run(command, check=True)
        page = (tmp_path / "performance.md").read_text()
        assert "Not measured yet" not in page
        assert page.count("| dit-small | full |") == 2  # of a step, and of a plan
    assert (tmp_path / "images" / "performance-step.png").read_bytes().startswith(b"\x89PNG")


def test_a_section_that_is_not_done_in_time_is_ended_with_all_it_started(tmp_path: Path) -> None:
    started = tmp_path / "started"
    script = (
        f"import subprocess; p = subprocess.Popen(['sleep', '600']); open({str(started)!r}, 'w').write(str(p.pid)); p.wait()"
    )
    with (tmp_path / "log").open("wb") as log:
        assert run_in_time([sys.executable, "-c", script], 5, dict(os.environ), log) is None
    wait_for(lambda: has_ended(int(started.read_text())))


def has_ended(pid: int) -> bool:
    """A process that was ended by a signal is gone, or a zombie without a command, a moment later."""
    try:
        return b"sleep" not in (Path("/proc") / str(pid) / "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return True
