"""The Celery tasks: each takes the id of a row and does what the row asks for."""

from functools import cache

from jobstore.dispatch import celery_app
from worker.dataset_check import check_dataset
from worker.estimates import run_estimate
from worker.evaluations import run_evaluation
from worker.exports import run_export
from worker.generation import Engine
from worker.runtime import stop_requested, task_running
from worker.supervisor import run_next
from worker.trainer import TRAINER, Standby


@cache
def standby() -> Standby:
    """The waiting trainer of this process."""
    return Standby(TRAINER)


@cache
def engine() -> Engine:
    """The loaded models of this process."""
    return Engine()


def train(_job_id: str) -> None:
    """Train every job that waits, in their order: the message is only a wake-up."""
    with task_running():
        while not stop_requested() and run_next(standby()):
            if not stop_requested():
                standby().prepare()


def generate(generation_id: str) -> None:
    with task_running():
        engine().run(generation_id)


def export(export_id: str) -> None:
    with task_running():
        run_export(export_id)


def evaluate(evaluation_id: str) -> None:
    with task_running():
        run_evaluation(evaluation_id, engine().make_room)


def estimate(estimate_id: str) -> None:
    with task_running():
        run_estimate(estimate_id)


def check(dataset_id: str) -> None:
    with task_running():
        check_dataset(dataset_id)


celery_app.task(train, name="difffit.train")
celery_app.task(generate, name="difffit.generate")
celery_app.task(export, name="difffit.export")
celery_app.task(evaluate, name="difffit.evaluate")
celery_app.task(estimate, name="difffit.estimate")
celery_app.task(check, name="difffit.check_dataset")
