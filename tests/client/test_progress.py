"""What people see of a training that they watch: a bar in a terminal, a line now and then in a log."""

import io
import threading
from typing import Any

import pytest
from rich.console import Console

from client import progress
from client.progress import TrainingView
from client.responses import Event
from tests.waiting import wait_for


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "TELLING_SECONDS", 0.01)


def telling() -> bool:
    return any(thread.name == "progress" for thread in threading.enumerate())


def event(kind: str, **data: Any) -> Event:
    return {"sequence": 1, "type": kind, "data": data}


@pytest.mark.usefixtures("often")
def test_a_log_gets_lines_while_a_job_waits_prepares_and_trains() -> None:
    """Also while no event comes."""
    log = io.StringIO()
    with TrainingView(Console(file=log, width=200), "class-conditional") as view:
        wait_for(lambda: log.getvalue().count("waiting for a worker\n") >= 2)
        view.show(event("started", trained_parameters=1, total_parameters=4, device="cpu"))
        wait_for(lambda: log.getvalue().endswith("preparing\n"))
        view.show(event("encoding", part="pictures", done=3, total=9))
        wait_for(lambda: log.getvalue().endswith("encoding pictures 3/9\n"))
        view.show(event("progress", step=7, total_steps=50, train_loss=0.5, samples_per_second=3.2, seconds_remaining=61))
        wait_for(lambda: log.getvalue().endswith("training 7/50 · loss 0.5000 · 3.2 images/s · 1:01 left\n"))
    ended = log.getvalue()
    assert not telling()
    assert "training 1 of 4 parameters (25.00%) on cpu\n" in ended


def test_a_log_gets_the_last_step_of_the_shortest_job() -> None:
    log = io.StringIO()
    with TrainingView(Console(file=log, width=200), "class-conditional") as view:
        for step in range(1, 4):
            view.show(event("progress", step=step, total_steps=3, train_loss=0.5))
    assert log.getvalue() == "training 3/3 · loss 0.5000\n"


@pytest.mark.usefixtures("often")
def test_a_terminal_gets_a_bar_and_no_such_lines() -> None:
    screen = io.StringIO()
    with TrainingView(Console(file=screen, width=200, force_terminal=True), "class-conditional") as view:
        view.show(event("progress", step=3, total_steps=3, train_loss=0.5))
        assert not telling()
    assert "━" in screen.getvalue()
