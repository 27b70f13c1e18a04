"""How the command shows a plan: figures where there are some, reasons where there are none."""

from client.plans import needs_of
from client.responses import Plan

MEMORY = {"frozen_weights": 3 << 30, "activations_per_example": 5 << 20, "total": 4 << 30, "error": 0.35}
ESTIMATE = {
    "device": "a [gpu]",
    "device_bytes": 8 << 30,
    "trained_parameters": 753_664,
    "total_parameters": 6_739_169_280,
    "adapter_bytes": 3_014_656,
    "memory": MEMORY,
    "micro_batch_size": 4,
    "largest_micro_batch_size": None,
}
DURATION = {"seconds_per_step": 0.5, "total_seconds": 5400.0, "device": "a [gpu]", "jobs": 2, "measured_at": None}


def shown(**answer: object) -> dict[str, str]:
    nothing: Plan = {"plan": {}, "estimate": None, "no_estimate": None, "duration": None, "no_duration": None}
    return dict(needs_of(nothing | answer))  # type: ignore[arg-type]  # the keys are a plan's


def test_figures_are_for_people() -> None:
    needs = shown(estimate=ESTIMATE, duration=DURATION)
    assert needs["trained parameters"] == "753,664 of 6,739,169,280"
    assert needs["memory"] == "4.0 GB of 8.0 GB on a \\[gpu], give or take 35%"
    assert needs["  frozen weights"] == "3.0 GB"
    assert needs["micro-batch"] == "4 planned, not even 1 fits"
    assert needs["time"].startswith("1:30:00 of steps, 0.5 s each")


def test_what_is_not_known_has_its_reason() -> None:
    needs = shown(no_estimate="No worker [yet].", no_duration="No job yet.")
    assert needs == {"memory": "No worker \\[yet].", "time": "No job yet."}


def test_an_error_that_was_not_measured_is_not_shown() -> None:
    needs = shown(estimate=ESTIMATE | {"memory": MEMORY | {"error": None}}, duration=DURATION)
    assert needs["memory"] == "4.0 GB of 8.0 GB on a \\[gpu]"
