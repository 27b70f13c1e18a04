"""What the code of one worker process shares: the database, the object store, scratch folders and the wish to stop."""

import ctypes
import logging
import mmap
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import FrameType

from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

from jobstore.kit.database import make_engine, session_factory
from jobstore.kit.objects import ObjectStore
from jobstore.kit.settings import Settings, get_settings
from worker.kit.confined import ENVIRONMENT

logger = logging.getLogger(__name__)

PR_SET_PDEATHSIG = 1  # from <sys/prctl.h>
MAIN_PROCESS = os.getpid()  # pool processes are forked from the process that imports this module

# Where programs, modules and scratch files lie; then what interpreter, threads, torch and the device's libraries are set by.
CHILDRENS_NAMES = {*ENVIRONMENT, "HOME", "TMPDIR", "USER", "VIRTUAL_ENV", "XDG_CACHE_HOME", "HF_HOME", "HF_HUB_OFFLINE"}
CHILDRENS_PREFIXES: tuple[str, ...] = ("PYTHON", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "TORCH", "PYTORCH_", "TRITON_")
CHILDRENS_PREFIXES += ("CUDA_", "CUBLAS_", "CUDNN_", "NVIDIA_", "NCCL_", "GLOO_", "HIP_", "ROCR_", "LC_")
SECRETS = ("TOKEN", "SECRET", "PASSWORD", "KEY", "URL")

# One byte that the main process shares with its forked pool processes. No lock is involved: it is written by a signal handler.
_stopping = mmap.mmap(-1, 1)


def request_stop() -> None:
    """Ask the tasks of this worker, in every process of it, to hand back what they are doing."""
    _stopping[0] = 1


def forget_stop() -> None:
    """Take the request back."""
    _stopping[0] = 0


def stop_requested() -> bool:
    return _stopping[0] != 0 or _terminated


_terminated = False
_tasks_running = 0


def prepare_pool_process() -> None:
    """Make a freshly forked pool process safe: it dies with the main process, and SIGTERM ends its task in good order."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != MAIN_PROCESS:  # the parent died before the line above
        os._exit(1)
    signal.signal(signal.SIGTERM, _on_terminate)
    engine().dispose(close=False)  # the connections belong to the process that was forked
    engine.cache_clear()
    sessions.cache_clear()


def _on_terminate(signum: int, frame: FrameType | None) -> None:
    global _terminated
    if not _tasks_running:
        raise SystemExit(0)
    _terminated = True


@contextmanager
def task_running() -> Iterator[None]:
    """While this is open, SIGTERM does not end the process but asks the task to stop."""
    global _tasks_running
    _tasks_running += 1
    try:
        yield
    finally:
        _tasks_running -= 1
    if _terminated:
        raise SystemExit(0)


@cache
def engine() -> Engine:
    return make_engine(get_settings().database_url.get_secret_value())


@cache
def sessions() -> sessionmaker[Session]:
    return session_factory(engine())


@cache
def objects() -> ObjectStore:
    return ObjectStore(get_settings().storage_url)


def child_environment() -> dict[str, str]:
    """The environment for processes that handle users' settings: what they compute by, and no address or secret."""
    return {name: value for name, value in os.environ.items() if _is_for_children(name)}


def _is_for_children(name: str) -> bool:
    return name in CHILDRENS_NAMES or (name.startswith(CHILDRENS_PREFIXES) and not any(word in name for word in SECRETS))


def has_room(settings: Settings) -> bool:
    """Whether the scratch space is large enough to begin something; else the log says so, and the work waits."""
    settings.work_dir.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(settings.work_dir).free
    if free < settings.min_free_bytes:
        logger.error("Work waits: %s has %d bytes free, less than %d", settings.work_dir, free, settings.min_free_bytes)
    return free >= settings.min_free_bytes


@contextmanager
def scratch_folder(row_id: str, token: object) -> Iterator[Path]:
    """A private folder for one attempt at a row, removed at the end, together with what lost attempts left behind."""
    parent = get_settings().work_dir
    parent.mkdir(parents=True, exist_ok=True)
    for left_behind in parent.glob(f"{row_id}.*"):
        shutil.rmtree(left_behind, ignore_errors=True)
    folder = parent / f"{row_id}.{token}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
