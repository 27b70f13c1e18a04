"""Evaluates a model in a child process. What was measured of each portion of pictures is kept, so that any worker can go on.

An evaluation may take hours, and what takes seconds comes to the same workers: it makes way for whoever waits, see `turns`.
"""

import json
import logging
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from difffit_core.errors import AdapterError, DatasetError, DiffFitError
from difffit_core.spec.catalog import get_base_model, load_catalog
from jobstore.kit import leases, turns
from jobstore.kit.dispatch import wake
from jobstore.kit.errors import StorageError
from jobstore.kit.objects import evaluation_prefix
from jobstore.kit.settings import get_settings
from jobstore.kit.tables import Adapter, Dataset, Evaluation
from worker.jobs.files import fetch_content, fetch_references, put_references
from worker.kit.child import Event, read_events, running, torch_environment
from worker.kit.lease import Lease, Stopping
from worker.kit.leased_work import finish, work_on
from worker.kit.outages import persist
from worker.kit.runtime import objects, scratch_folder, sessions

logger = logging.getLogger(__name__)

EVALUATOR = [sys.executable, "-m", "difffit_core.evaluation", "--die-with-parent"]
CHECK_SECONDS = 0.2  # between two looks at the child and at the lease
LOOK_SECONDS = 1.0  # between two looks at who waits
DRAWN = "drawn"  # see difffit_core.evaluation.standalone


class MakingWay(Exception):
    """Somebody waits, and this evaluation has got on."""


def run_evaluation(evaluation_id: str, make_room: Callable[[], bool]) -> None:
    """Claim the evaluation and bring it on, to its end unless somebody waits; does nothing where another worker has it.

    `make_room` gives the memory of this process's own models back, and says whether there were any.
    """
    work_on(Evaluation, evaluation_id, partial(_bring_on, make_room=make_room))


def _bring_on(evaluation: Evaluation, lease: Lease, make_room: Callable[[], bool]) -> None:
    with scratch_folder(evaluation.id, lease.token) as folder:
        try:
            _evaluate(evaluation, lease, folder, make_room)
        except (Stopping, MakingWay):
            with sessions().begin() as session:
                leases.give_back(session, Evaluation, evaluation.id, lease.token)
                turns.count(session, Evaluation, evaluation.tenant_id)
            wake("evaluate", evaluation.id)


def _evaluate(evaluation: Evaluation, lease: Lease, folder: Path, make_room: Callable[[], bool]) -> None:
    try:
        dataset_sha256 = persist(lease, lambda: _stage(evaluation, folder), fetches=True)
        ending = _measure(evaluation, lease, folder)
        if ending.get("code") == "out_of_memory" and make_room():
            ending = _measure(evaluation, lease, folder)
        if ending["type"] == "failed":
            finish(lease, "failed", error={name: ending[name] for name in ("code", "message", "param")})
        else:
            persist(lease, lambda: put_references(objects(), dataset_sha256, folder))
            finish(lease, "succeeded", figures=ending["figures"], samples_done=evaluation.parameters["samples"])
    except StorageError:
        raise  # it may come back: the lease expires and the evaluation is tried again
    except DiffFitError as error:
        finish(lease, "failed", error=error.reason())
    _forget(evaluation.id)


def _stage(evaluation: Evaluation, folder: Path) -> str:
    """Fill the evaluator's folder, with what earlier attempts measured in it; the hash of the dataset's content."""
    settings = get_settings()
    with sessions()() as session:
        dataset = session.get_one(Dataset, evaluation.dataset_id)
        adapter = None if evaluation.adapter_id is None else session.get_one(Adapter, evaluation.adapter_id)
    if dataset.content_key is None or dataset.sha256 is None:
        raise DatasetError("The dataset is no longer there.", code="dataset_missing", param="dataset")
    if adapter is not None:
        if adapter.deleted_at is not None:
            raise AdapterError("The adapter is deleted.", code="adapter_missing", param="adapter")
        objects().get_to_file(adapter.object_key, folder / "adapter.safetensors")
    base = get_base_model(load_catalog(settings.models, settings.models_dir), evaluation.base_model)
    asked = {
        "spec": evaluation.parameters,
        "task": evaluation.task,
        "base": base.model_dump(mode="json"),
        "dataset_sha256": dataset.sha256,
        "feature_weights": settings.feature_weights.model_dump(),
    }
    (folder / "evaluation.json").write_text(json.dumps(asked))
    fetch_content(objects(), dataset.content_key, folder / "dataset", settings)
    fetch_references(objects(), dataset.sha256, folder)
    (folder / DRAWN).mkdir(exist_ok=True)
    for file in objects().list(evaluation_prefix(evaluation.id)):
        objects().get_to_file(file.key, folder / DRAWN / Path(file.key).name)
    return dataset.sha256


def _measure(evaluation: Evaluation, lease: Lease, folder: Path) -> Event:
    """The evaluator's last word. Keeps portions and progress meanwhile; raises LeaseLost, Stopping or MakingWay."""
    kept = {path.name for path in (folder / DRAWN).iterdir()}
    gone_on, began = False, time.monotonic()
    looked_at = began
    (folder / "events.jsonl").unlink(missing_ok=True)  # of an evaluator that had too little memory
    reported = read_events(folder / "events.jsonl")
    with running([*EVALUATOR, str(folder)], folder / "log", torch_environment()) as child:
        while True:
            exited = child.exit_status() is not None  # asked first: what it wrote before its end is read below
            event = next(reported)
            lease.check()
            if event is None and exited:
                break
            if event is None:
                lease.lost.wait(CHECK_SECONDS)
            elif event["type"] == "evaluating":
                gone_on = _keep(evaluation.id, lease, folder, kept, event["done"]) or gone_on
            else:
                return event
            if gone_on and (now := time.monotonic()) > looked_at + LOOK_SECONDS:
                looked_at = now
                with sessions()() as session:
                    if turns.makes_way(session, evaluation, now > began + turns.EVALUATION_REST.total_seconds()):
                        raise MakingWay
    logger.error("The evaluator of %s failed:\n%s", evaluation.id, (folder / "log").read_text(errors="replace"))
    message = f"The evaluator ended with status {child.exit_status()}; the worker's log says more."
    return {"type": "failed", "code": "evaluation_failed", "message": message, "param": None}


def _keep(evaluation_id: str, lease: Lease, folder: Path, kept: set[str], done: int) -> bool:
    """Store what was measured since the last look; whether there was any. An attempt that gets on counts as the first."""
    fresh = sorted(path for path in (folder / DRAWN).glob("*.safetensors") if path.name not in kept)
    for path in fresh:
        put = partial(objects().put_file, f"{evaluation_prefix(evaluation_id)}{path.name}", path)
        persist(lease, put)
        kept.add(path.name)

    def write() -> None:
        with sessions().begin() as session:
            lease.write(session, samples_done=done, **({"attempt": 1} if fresh else {}))

    persist(lease, write)
    return bool(fresh)


def _forget(evaluation_id: str) -> None:
    try:
        for file in objects().list(evaluation_prefix(evaluation_id)):
            objects().delete(file.key)
    except StorageError as error:  # the next collection of garbage finds them
        logger.warning("What was measured for %s stays for now: %s", evaluation_id, error)
