"""The order in which everything but jobs is taken: tenants in turn over all kinds of a queue, at any length of it."""

import time
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, insert, update
from sqlalchemy.orm import Session, sessionmaker

from jobstore.kit import leases, turns
from jobstore.kit.dispatch import QUEUES, Kind
from jobstore.kit.ids import new_id
from jobstore.kit.tables import Adapter, Dataset, Evaluation, Generation, Job, Tenant, Turn
from jobstore.tenants.keys import install_key
from tests.jobstore.rows import add_dataset, add_job

Sessions = sessionmaker[Session]
GENERATE, DEFAULT = QUEUES["generate"], QUEUES["check_dataset"]


@pytest.fixture
def tenants(sessions: Sessions) -> list[Tenant]:
    with sessions.begin() as session:
        return [install_key(session, f"key-of-tenant-{name}-0123456789", name) for name in "abc"]


def add(sessions: Sessions, tenant: Tenant, kind: Kind, number: int = 1) -> list[str]:
    """Waiting rows of this kind, oldest first."""
    model = turns.MODELS[kind]
    ids = sorted(new_id("msg") for _ in range(number))  # of any prefix
    with sessions.begin() as session:
        values = values_of(session, tenant, kind)
        common = {"tenant_id": tenant.id, "status": leases.WAITING[model], "attempt": 0}
        session.execute(insert(model), [common | {"id": row_id} | values(row_id) for row_id in ids])
    return ids


def values_of(session: Session, tenant: Tenant, kind: Kind) -> Any:
    """What such a row needs besides."""
    match kind:
        case "generate":
            return lambda _: {"base_model": "emoji-dit", "parameters": {}}
        case "estimate":
            return lambda row_id: {"key": row_id, "spec": {}}
        case "check_dataset":
            return lambda _: {"name": "cats", "upload_key": "u", "upload_bytes": 1, "content_bytes": 0}
        case "evaluate":
            dataset = add_dataset(session, tenant)
            common = {"base_model": "emoji-dit", "dataset_id": dataset.id, "task": "t", "parameters": {}, "samples_done": 0}
            return lambda _: common
        case _:
            job = add_job(session, tenant, "succeeded")
            adapter = Adapter(id=new_id("ad"), tenant_id=tenant.id, job_id=job.id, base_model="b", object_key="a", bytes=1)
            adapter.sha256, adapter.class_names = "", []
            session.add(adapter)
            session.flush()
            return lambda row_id: {"adapter_id": adapter.id, "format": row_id}


def take(sessions: Sessions, queue: str = GENERATE) -> str | None:
    """The id of the row that a worker takes now."""
    with sessions.begin() as session:
        found = turns.next_waiting(session, queue)
        if found is None:
            return None
        kind, row_id = found
        model: Any = turns.MODELS[kind]
        assert leases.claim(session, model, row_id, 60) is not None
        turns.count(session, model, session.get_one(model, row_id).tenant_id)
        return row_id


def end(sessions: Sessions, row_id: str) -> None:
    with sessions.begin() as session:
        models: list[Any] = list(turns.MODELS.values())
        for model in models:
            row = session.get(model, row_id)
            if row is not None and row.lease_token is not None:
                assert leases.finish(session, model, row_id, row.lease_token, "ready" if model is Dataset else "succeeded")


def take_and_end(sessions: Sessions, queue: str = GENERATE) -> str | None:
    row_id = take(sessions, queue)
    if row_id is not None:
        end(sessions, row_id)
    return row_id


@pytest.mark.parametrize(
    ("many", "one"), [(many, one) for many in QUEUES for one in QUEUES if many != "train" and QUEUES[many] == QUEUES[one]]
)
def test_a_hundred_requests_of_one_tenant_do_not_starve_anothers_one(
    sessions: Sessions, tenants: list[Tenant], many: Kind, one: Kind
) -> None:
    queue = QUEUES[many]
    theirs = add(sessions, tenants[0], many, 100)
    assert take_and_end(sessions, queue) == theirs[0]
    (mine,) = add(sessions, tenants[1], one)
    assert take_and_end(sessions, queue) == mine
    assert take_and_end(sessions, queue) == theirs[1]


def test_tenants_take_turns_and_so_do_the_kinds_of_each(sessions: Sessions, tenants: list[Tenant]) -> None:
    pictures, exports = add(sessions, tenants[0], "generate", 3), add(sessions, tenants[0], "export", 2)
    others = add(sessions, tenants[1], "generate", 3)
    expected = [pictures[0], others[0], exports[0], others[1], pictures[1], others[2], exports[1], pictures[2], None]
    assert [take_and_end(sessions) for _ in expected] == expected


def test_the_tenant_with_fewer_rows_at_work_comes_first(sessions: Sessions, tenants: list[Tenant]) -> None:
    long, others = add(sessions, tenants[0], "export", 2), add(sessions, tenants[1], "estimate", 3)
    assert take(sessions) == long[0]
    assert [take_and_end(sessions) for _ in range(4)] == [*others, long[1]]


def test_evaluations_let_the_rest_pass_after_their_turn_and_get_another(sessions: Sessions, tenants: list[Tenant]) -> None:
    (evaluation,) = add(sessions, tenants[0], "evaluate")
    assert take(sessions) == evaluation
    pictures = add(sessions, tenants[1], "generate", 4)

    def made_way() -> None:
        with sessions.begin() as session:
            row = session.get_one(Evaluation, evaluation)
            assert row.lease_token is not None
            assert leases.give_back(session, Evaluation, evaluation, row.lease_token)
            turns.count(session, Evaluation, tenants[0].id)

    made_way()
    assert [take_and_end(sessions) for _ in range(2)] == pictures[:2]
    with sessions.begin() as session:
        session.execute(update(Turn).values(served_at=Turn.served_at - turns.EVALUATION_REST - timedelta(seconds=1)))
    assert take(sessions) == evaluation
    made_way()
    assert [take_and_end(sessions) for _ in range(2)] == pictures[2:]
    assert take(sessions) == evaluation  # nothing else waits


def test_an_evaluation_makes_way_for_whoever_waits(sessions: Sessions, tenants: list[Tenant]) -> None:
    (evaluation,) = add(sessions, tenants[0], "evaluate")
    assert take(sessions) == evaluation

    def makes_way(turn_is_over: bool) -> bool:
        with sessions() as session:
            return turns.makes_way(session, session.get_one(Evaluation, evaluation), turn_is_over)

    def let_wait(model: Any) -> None:
        with sessions.begin() as session:
            session.execute(update(model).values(created_at=func.now() - timedelta(minutes=1)))

    add(sessions, tenants[0], "evaluate")
    let_wait(Evaluation)
    assert not makes_way(turn_is_over=True)
    add(sessions, tenants[1], "evaluate")
    assert not makes_way(turn_is_over=True)  # it may just be on its way to another worker
    let_wait(Evaluation)
    assert (makes_way(turn_is_over=False), makes_way(turn_is_over=True)) == (False, True)
    shorter: list[Kind] = ["export", "estimate", "generate"]
    for kind in shorter:
        (row_id,) = add(sessions, tenants[0], kind)
        assert not makes_way(turn_is_over=False)
        let_wait(turns.MODELS[kind])
        assert makes_way(turn_is_over=False)
        with sessions.begin() as session:
            assert leases.claim(session, turns.MODELS[kind], row_id, 60) is not None


def test_work_for_other_workers_is_left_alone(sessions: Sessions, tenants: list[Tenant]) -> None:
    add(sessions, tenants[0], "generate")
    with sessions.begin() as session:
        add_job(session, tenants[0])
    assert take(sessions, DEFAULT) is None


def test_a_long_queue_is_no_slower(sessions: Sessions, tenants: list[Tenant]) -> None:
    """Within one run on one machine: the median claim at 10,000 waiting requests against that at 20."""

    def median_claim() -> float:
        seconds = []
        for _ in range(7):
            began = time.perf_counter()
            row_id = take(sessions)
            seconds.append(time.perf_counter() - began)
            assert row_id is not None
            end(sessions, row_id)
        return sorted(seconds)[3]

    add(sessions, tenants[0], "generate", 20)
    short = median_claim()
    add(sessions, tenants[0], "generate", 10_000)
    with sessions.begin() as session:
        assert session.query(Generation).count() > 10_000
        assert session.query(Job).count() == 0
    assert median_claim() < 10 * short
