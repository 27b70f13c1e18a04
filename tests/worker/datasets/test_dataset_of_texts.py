"""A dataset without pictures, from its upload to the row that jobs ask."""

import json
import tarfile
from pathlib import Path

from sqlalchemy import update

from jobstore.kit.objects import ObjectStore
from jobstore.kit.tables import Dataset
from tests.worker.conftest import Rows
from worker.datasets.check import check_dataset


def test_texts_become_ready_without_a_preview(rows: Rows, store: ObjectStore, tmp_path: Path) -> None:
    upload = tmp_path / "upload.json"
    upload.write_text(json.dumps([{"instruction": "Count.", "output": "1 2 3"}, {"instruction": "Count."}]))
    dataset_id = rows.dataset(upload)
    check_dataset(dataset_id)
    dataset = rows.get(Dataset, dataset_id)
    assert (dataset.status, dataset.error, dataset.preview_key) == ("ready", None, None)
    assert (dataset.classes, dataset.holds) == ({"": 1}, ["messages"])
    assert dataset.frame == "alpaca"
    assert dataset.report is not None
    assert [(r["file"], r["code"]) for r in dataset.report["refused"]] == [("a set.json:2", "invalid_row")]
    assert dataset.content_key is not None
    store.get_to_file(dataset.content_key, tmp_path / "content.tar")
    with tarfile.open(tmp_path / "content.tar") as tar:
        assert tar.getnames() == ["index.jsonl"]


def test_rows_are_called_by_the_users_file_name(rows: Rows, tmp_path: Path) -> None:
    upload = tmp_path / "upload"
    upload.write_text('{"instruction": "Count.", "output": "1 2 3"}\n{"instruction": "Count."}\n')
    dataset_id = rows.dataset(upload)
    with rows.sessions.begin() as session:
        session.execute(update(Dataset).values(upload_name="pirates.jsonl", name="My pirates"))
    check_dataset(dataset_id)
    dataset = rows.get(Dataset, dataset_id)
    assert dataset.report is not None
    assert [r["file"] for r in dataset.report["refused"]] == ["pirates.jsonl:2"]
