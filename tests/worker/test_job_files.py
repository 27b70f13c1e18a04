"""The trainer's folder: what it begins with, and that filling it can be repeated."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image
from sqlalchemy import func, update

from difffit_core.dataset import read_index
from difffit_core.errors import AdapterError
from difffit_core.evaluation.references import FOLDER
from difffit_core.evaluation.training import DONE
from difffit_core.initial_values import FILE
from jobstore import events
from jobstore.ids import new_id
from jobstore.objects import ObjectStore
from jobstore.settings import Settings
from jobstore.tables import Adapter, Checkpoint, Dataset, Job
from tests.worker.conftest import Rows
from tests.worker.pictures import picture
from worker.dataset_check import check_dataset
from worker.job_files import EVALUATED, INITIAL_VALUES, REFERENCES, put_checkpoint, put_references, stage


def test_a_job_is_told_which_evaluations_were_reported_and_gets_reference_features(
    rows: Rows, store: ObjectStore, fast_settings: Settings, tmp_path: Path
) -> None:
    assert (EVALUATED, REFERENCES) == (DONE, FOLDER)
    dataset_id = rows.dataset()
    check_dataset(dataset_id)
    job_id = rows.job(dataset_id, evaluate_every=2, evaluation_metrics=["fd-mobilenet"], validation_fraction=0.2)
    sha256 = str(rows.get(Dataset, dataset_id).sha256)
    checkpoint = tmp_path / "step-000004"
    checkpoint.mkdir()
    row = Checkpoint(id=new_id("ck"), job_id=job_id, step=4, object_key="jobs/a/b.tar")
    row.bytes = put_checkpoint(store, row.object_key, checkpoint)
    with rows.sessions.begin() as session:
        session.add(row)
        for step in (2, 4, 6):  # the last is of steps that are done again
            events.append(session, job_id, "evaluation", {"step": step, "figures": []})
    made = tmp_path / "made"
    (made / REFERENCES).mkdir(parents=True)
    (made / REFERENCES / "a.safetensors").write_bytes(b"features")
    put_references(store, sha256, made)
    folder = tmp_path / "fresh"
    folder.mkdir()
    configured = fast_settings.model_copy(update={"clip_model": Path("/models/clip")})
    stage(rows.sessions, rows.get(Job, job_id), folder, store, configured)
    assert json.loads((folder / DONE).read_text()) == [2, 4]
    assert (folder / REFERENCES / "a.safetensors").read_bytes() == b"features"
    assert json.loads((folder / "spec.json").read_text())["feature_weights"]["clip"] == "/models/clip"


def test_a_job_begins_with_another_adapters_values_and_goes_on_from_its_own_checkpoint(
    rows: Rows, store: ObjectStore, fast_settings: Settings, tmp_path: Path
) -> None:
    assert INITIAL_VALUES == FILE
    dataset_id = rows.dataset()
    check_dataset(dataset_id)
    first, job_id = rows.job(dataset_id), rows.job(dataset_id)
    adapter = Adapter(
        id=new_id("ad"), tenant_id=rows.tenant.id, job_id=first, base_model="emoji-dit", object_key="adapters/a/b"
    )
    adapter.bytes, adapter.sha256, adapter.class_names = 7, "0", ["blue", "red"]
    store.put_bytes(adapter.object_key, b"weights")
    with rows.sessions.begin() as session:
        session.add(adapter)
        session.flush()
        session.execute(update(Job).where(Job.id == job_id).values(init_adapter_id=adapter.id))
    folder = tmp_path / "fresh"
    folder.mkdir()
    for _ in range(2):  # the store may go away in the middle
        stage(rows.sessions, rows.get(Job, job_id), folder, store, fast_settings)
    assert (folder / FILE).read_bytes() == b"weights"
    assert json.loads((folder / "spec.json").read_text())["seed"] == 0
    assert len((folder / "dataset" / "index.jsonl").read_text().splitlines()) == 8

    state = tmp_path / "step-000005"
    state.mkdir()
    (state / "state.json").write_text("{}")
    size = put_checkpoint(store, "jobs/x/5.tar", state)
    with rows.sessions.begin() as session:
        session.add(Checkpoint(id=new_id("ck"), job_id=job_id, step=5, object_key="jobs/x/5.tar", bytes=size))
        session.execute(update(Adapter).values(deleted_at=func.now()))
    later = tmp_path / "later"
    later.mkdir()
    stage(rows.sessions, rows.get(Job, job_id), later, store, fast_settings)
    assert sorted(path.name for path in later.iterdir()) == ["checkpoints", "dataset", "spec.json"]
    assert (later / "checkpoints" / "step-000005" / "state.json").exists()


def test_a_job_whose_initial_adapter_is_deleted_says_so(
    rows: Rows, store: ObjectStore, fast_settings: Settings, tmp_path: Path
) -> None:
    dataset_id = rows.dataset()
    check_dataset(dataset_id)
    first, job_id = rows.job(dataset_id), rows.job(dataset_id)
    adapter = Adapter(id=new_id("ad"), tenant_id=rows.tenant.id, job_id=first, base_model="emoji-dit", object_key="gone")
    adapter.bytes, adapter.sha256, adapter.class_names = 7, "0", []
    with rows.sessions.begin() as session:
        session.add(adapter)
        adapter.deleted_at = session.scalar(func.now())
        session.flush()
        session.execute(update(Job).where(Job.id == job_id).values(init_adapter_id=adapter.id))
    with pytest.raises(AdapterError) as refused:
        stage(rows.sessions, rows.get(Job, job_id), tmp_path, store, fast_settings)
    assert refused.value.code == "adapter_missing"


def test_pictures_that_an_earlier_version_kept_as_they_were_sent_are_made_plain(
    rows: Rows, store: ObjectStore, fast_settings: Settings, dataset: str, tmp_path: Path
) -> None:
    """The trainer opens nothing that a user sent, whenever that was."""
    job_id, earlier = rows.job(dataset), "datasets/earlier/content.tar"
    sent = {"000000.jpg": picture("red", (40, 20), "JPEG"), "000001.png": picture("blue", (40, 20))}
    listed = [{"file": name, "label": name, "sha256": "0", "source": f"a/{name}"} for name in sent]
    index = "".join(json.dumps(row) + "\n" for row in listed).encode()
    with tarfile.open(tmp_path / "content.tar", "w") as tar:
        for name, data in (("index.jsonl", index), *sent.items()):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    store.put_file(earlier, tmp_path / "content.tar")
    with rows.sessions.begin() as session:
        session.execute(update(Dataset).values(content_key=earlier))
    folder = tmp_path / "fresh"
    folder.mkdir()
    stage(rows.sessions, rows.get(Job, job_id), folder, store, fast_settings)
    items = read_index(folder / "dataset")
    assert [(item.label, item.source, item.width, item.height) for item in items] == [
        (name, f"a/{name}", 40, 20) for name in sent
    ]
    assert {path.name for path in (folder / "dataset").iterdir()} == {"index.jsonl", *(item.file for item in items)}
    for item, data in zip(items, sent.values(), strict=True):
        with Image.open(folder / "dataset" / item.file) as plain, Image.open(io.BytesIO(data)) as image:
            assert (plain.format, plain.tobytes()) == ("PNG", image.tobytes())
