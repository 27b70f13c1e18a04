"""A worker that is woken works off everything in its queue, tenants in turn."""

from sqlalchemy.orm import Session, sessionmaker

from jobstore.kit.dispatch import QUEUES, wake
from jobstore.kit.objects import ObjectStore
from jobstore.kit.settings import Settings
from jobstore.kit.tables import Dataset, Tenant
from jobstore.tenants.keys import create_tenant
from tests.waiting import wait_for
from tests.worker.conftest import Rows, Workers
from worker.datasets.check import check_dataset
from worker.kit import runtime
from worker.kit.leased_work import work_off
from worker.kit.tasks import TASKS


def test_one_message_has_all_rows_worked_off_in_turns(
    rows: Rows, workers: Workers, sessions: sessionmaker[Session], store: ObjectStore, fast_settings: Settings
) -> None:
    with sessions.begin() as session:
        other = create_tenant(session, "another")
    many = [rows.dataset() for _ in range(6)]
    one = Rows(sessions, store, other, rows.folder).dataset()
    wake("check_dataset", many[-1])
    workers.start("default")
    wait_for(lambda: all(rows.get(Dataset, row_id).finished_at for row_id in (*many, one)))
    ended = sorted((*many, one), key=lambda row_id: str(rows.get(Dataset, row_id).finished_at))
    assert ended == [many[0], one, *many[1:]]
    assert {rows.get(Dataset, row_id).attempt for row_id in ended} == {1}


def test_a_worker_that_stops_or_has_no_room_begins_nothing(rows: Rows, tenant: Tenant) -> None:
    dataset_id, queue = rows.dataset(), QUEUES["check_dataset"]
    work_off(queue, {"check_dataset": check_dataset}, lambda: False)
    runtime.request_stop()
    work_off(queue, {"check_dataset": check_dataset})
    assert rows.get(Dataset, dataset_id).attempt == 0
    runtime.forget_stop()
    work_off(queue, {"check_dataset": check_dataset})
    assert rows.get(Dataset, dataset_id).status == "ready"


def test_every_kind_of_message_has_its_task() -> None:
    assert TASKS.keys() == QUEUES.keys()
