"""The Celery tasks, one for each kind of work. A message only wakes: its worker goes on until nothing waits in the queue."""

import threading
from collections.abc import Callable
from functools import cache, partial
from importlib import import_module

from jobstore.kit.dispatch import QUEUES, Kind, celery_app
from jobstore.kit.settings import get_settings
from worker.adapters.exports import run_export
from worker.datasets.check import check_dataset
from worker.estimates.run import run_estimate
from worker.evaluations.run import run_evaluation
from worker.generations.engine import Engine
from worker.jobs.supervisor import run_next
from worker.jobs.trainer import TRAINER, Standby
from worker.kit.leased_work import work_off
from worker.kit.runtime import has_room, stop_requested, task_running


@cache
def standby() -> Standby:
    """The waiting trainer of this process."""
    return Standby(TRAINER)


@cache
def engine() -> Engine:
    """The loaded models of this process."""
    return Engine()


def load_libraries() -> None:
    """Import what pictures and estimates are computed with, in a thread: the first request does not wait for all of it."""

    def load() -> None:
        for name in ("difffit_core.sampling.registry", "difffit_core.planning.plan"):
            import_module(name)

    threading.Thread(target=load, name="libraries", daemon=True).start()


def train(_job_id: str) -> None:
    """Train every job that waits, in their order."""
    with task_running():
        while not stop_requested() and run_next(standby()):
            if not stop_requested():
                standby().prepare()


def generate(_row_id: str) -> None:
    """Work off everything that waits for this process's device, tenants in turn."""
    works: dict[Kind, Callable[[str], object]] = {
        "generate": engine().run,
        "export": run_export,
        "evaluate": partial(run_evaluation, make_room=engine().make_room),
        "estimate": run_estimate,
    }
    with task_running():
        work_off(QUEUES["generate"], works)


def check(_dataset_id: str) -> None:
    """Check every dataset that waits, tenants in turn, while there is room to unpack one."""
    with task_running():
        work_off(QUEUES["check_dataset"], {"check_dataset": check_dataset}, lambda: has_room(get_settings()))


TASKS: dict[Kind, Callable[[str], None]] = {
    "train": train,
    "generate": generate,
    "export": generate,
    "evaluate": generate,
    "estimate": generate,
    "check_dataset": check,
}
for kind, task in TASKS.items():
    celery_app.task(task, name=f"difffit.{kind}")
