"""The conversion of an adapter in a child process. Its success is a test of the whole service, in `tests/client`."""

from jobstore.kit.ids import new_id
from jobstore.kit.objects import ObjectStore
from jobstore.kit.settings import Settings
from jobstore.kit.tables import Adapter, Export
from tests.worker.conftest import Rows
from worker.adapters.exports import run_export
from worker.datasets.check import check_dataset


def add_export(rows: Rows, store: ObjectStore, data: bytes) -> str:
    """An adapter with this file, and the wish to have it for PEFT; the export's id."""
    dataset_id = rows.dataset()
    check_dataset(dataset_id)
    adapter = Adapter(id=new_id("ad"), tenant_id=rows.tenant.id, job_id=rows.job(dataset_id), base_model="emoji-dit")
    adapter.object_key, adapter.bytes, adapter.sha256, adapter.class_names = "adapters/a/a", len(data), "0", []
    store.put_bytes(adapter.object_key, data)
    export = Export(id=new_id("exp"), tenant_id=rows.tenant.id, adapter_id=adapter.id, format="peft", status="queued")
    with rows.sessions.begin() as session:
        session.add(adapter)
        session.flush()
        session.add(export)
    return export.id


def test_a_file_that_is_no_adapter_fails_with_the_reason(rows: Rows, store: ObjectStore, fast_settings: Settings) -> None:
    export_id = add_export(rows, store, b"not an adapter")
    run_export(export_id)
    export = rows.get(Export, export_id)
    assert (export.status, export.object_key) == ("failed", None)
    assert export.error is not None
    assert export.error["code"] == "invalid_adapter"
    assert list(fast_settings.work_dir.iterdir()) == []
    run_export(export_id)  # a message that comes twice finds nothing to do
    assert rows.get(Export, export_id).attempt == 1
