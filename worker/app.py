"""The workers' Celery application: `celery -A worker.app worker -Q train`, `-Q generate` or `-Q default`.

The queues it consumes make a worker what it is: one with `train` keeps a trainer standing by, one with `generate` its
libraries loaded, one with `default` sweeps.
"""

import threading
from typing import Any

from celery import signals

from jobstore.kit.dispatch import QUEUES, celery_app
from jobstore.kit.settings import get_settings
from worker.kit import runtime, tasks
from worker.kit.garbage import collect_forever
from worker.kit.sweeper import Sweeper

app = celery_app

_queues: set[str] = set()
_closed = threading.Event()


def remember_queues(sender: Any, **_: Any) -> None:
    """Runs in the main process before the pool is forked."""
    _queues.update(sender.app.amqp.queues.consume_from)


def on_pool_process(**_: Any) -> None:
    runtime.prepare_pool_process()
    if QUEUES["train"] in _queues:
        tasks.standby().prepare()
    if QUEUES["generate"] in _queues:
        tasks.load_libraries()


def on_ready(**_: Any) -> None:
    settings = get_settings()
    threading.Thread(target=_show_life, name="heartbeat", daemon=True).start()
    if QUEUES["check_dataset"] in _queues:
        sweeper, collecting = Sweeper(runtime.sessions(), settings), (runtime.sessions(), runtime.objects(), settings, _closed)
        threading.Thread(target=sweeper.run, args=(_closed,), name="sweeper", daemon=True).start()
        threading.Thread(target=collect_forever, args=collecting, name="garbage", daemon=True).start()


def on_shutting_down(**_: Any) -> None:
    runtime.request_stop()


def on_shutdown(**_: Any) -> None:
    _closed.set()


def _show_life() -> None:
    settings = get_settings()
    while settings.heartbeat_file is not None:
        settings.heartbeat_file.touch()
        if _closed.wait(settings.heartbeat_seconds):
            return


signals.worker_init.connect(remember_queues)
signals.worker_process_init.connect(on_pool_process)
signals.worker_ready.connect(on_ready)
signals.worker_shutting_down.connect(on_shutting_down)
signals.worker_shutdown.connect(on_shutdown)
