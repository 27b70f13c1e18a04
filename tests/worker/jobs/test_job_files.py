"""The trainer's folder: what it begins with, and that filling it can be repeated."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from sqlalchemy import func, update

from difffit_core.data.dataset import read_index
from difffit_core.errors import AdapterError, DatasetError
from difffit_core.evaluation.references import FOLDER
from difffit_core.evaluation.training import DONE
from difffit_core.training.checkpoints import TENSORS, check_whole, newest_first, seal, step_name
from difffit_core.training.initial_values import FILE
from jobstore.jobs import events
from jobstore.kit.ids import new_id
from jobstore.kit.objects import ObjectStore
from jobstore.kit.settings import Settings
from jobstore.kit.tables import Adapter, Checkpoint, Dataset, Job
from tests.worker.conftest import Rows
from tests.worker.pictures import picture
from worker.datasets.check import check_dataset
from worker.jobs.files import EVALUATED, INITIAL_VALUES, REFERENCES, put_checkpoint, put_references, stage


def add_checkpoint(rows: Rows, store: ObjectStore, job_id: str, step: int, folder: Path) -> str:
    """Store one as a worker does; returns the key of its object."""
    state, row = folder / step_name(step), Checkpoint(id=new_id("ck"), job_id=job_id, step=step)
    state.mkdir()
    (state / TENSORS).write_bytes(bytes(1000))
    seal(state, step)
    row.object_key = f"jobs/{job_id}/t/checkpoints/{state.name}.tar"
    row.bytes = put_checkpoint(store, row.object_key, state)
    with rows.sessions.begin() as session:
        session.add(row)
    return row.object_key


def test_a_job_is_told_which_evaluations_were_reported_and_gets_reference_features(
    rows: Rows, store: ObjectStore, fast_settings: Settings, tmp_path: Path
) -> None:
    assert (EVALUATED, REFERENCES) == (DONE, FOLDER)
    dataset_id = rows.dataset()
    check_dataset(dataset_id)
    job_id = rows.job(dataset_id, evaluate_every=2, evaluation_metrics=["fd-mobilenet"], validation_fraction=0.2)
    sha256 = str(rows.get(Dataset, dataset_id).sha256)
    add_checkpoint(rows, store, job_id, 4, tmp_path)
    with rows.sessions.begin() as session:
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

    add_checkpoint(rows, store, job_id, 5, tmp_path)
    with rows.sessions.begin() as session:
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


def cut(content: bytes) -> bytes:
    return content[:1200]


def cut_in_its_head(content: bytes) -> bytes:
    return content[:300]


def garble(content: bytes) -> bytes:
    middle = content.index(bytes(1000)) + 500
    return content[:middle] + b"?" + content[middle + 1 :]


def overwrite(content: bytes) -> bytes:
    return b"\xa5" * len(content)


def empty(content: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("damage", [None, cut, cut_in_its_head, garble, overwrite, empty])
@pytest.mark.parametrize("damaged", [1, 3])
def test_a_job_goes_on_from_the_newest_checkpoint_that_is_whole(
    rows: Rows,
    store: ObjectStore,
    fast_settings: Settings,
    tmp_path: Path,
    dataset: str,
    damage: Callable[[bytes], bytes] | None,
    damaged: int,
) -> None:
    """Of three checkpoints the newest, or all, are deleted or otherwise than they were stored."""
    job_id, keys = rows.job(dataset), {}
    for step in (999_998, 999_999, 1_000_000):
        keys[step] = add_checkpoint(rows, store, job_id, step, tmp_path)
    hurt = sorted(keys, reverse=True)[:damaged]
    for step in hurt:
        if damage is None:
            store.delete(keys[step])
        else:
            store.put_bytes(keys[step], damage(store.get_bytes(keys[step])))
    folder = tmp_path / "fresh"
    folder.mkdir()
    for _ in range(2):  # the store may go away in the middle
        told = stage(rows.sessions, rows.get(Job, job_id), folder, store, fast_settings)
    assert [(event["type"], event["step"]) for event in told] == [("checkpoint_damaged", step) for step in hurt]
    assert all(f"step {step} is lost" in event["message"] for step, event in zip(hurt, told, strict=True))
    assert [check_whole(path) for path in newest_first(folder / "checkpoints")] == ([999_999] if damaged == 1 else [])


def test_a_damaged_dataset_is_said_to_be_so(
    rows: Rows, store: ObjectStore, fast_settings: Settings, tmp_path: Path, dataset: str
) -> None:
    key = rows.get(Dataset, dataset).content_key
    assert key is not None
    store.put_bytes(key, overwrite(store.get_bytes(key)))
    with pytest.raises(DatasetError) as caught:
        stage(rows.sessions, rows.get(Job, rows.job(dataset)), tmp_path, store, fast_settings)
    assert caught.value.code == "object_damaged"


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
