"""Estimates for plans, as a worker computes them."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session, sessionmaker

from difffit_core.planning.estimate import Estimate as Needs
from difffit_core.planning.estimate import cache_key
from difffit_core.spec.catalog import get_base_model, load_catalog
from difffit_core.spec.job import DatasetSummary, JobSpec, TrainingSpec
from difffit_core.spec.resolve import resolve
from jobstore.estimates import service as estimates
from jobstore.kit import leases
from jobstore.kit.settings import Settings
from jobstore.kit.tables import Estimate, Json, Tenant
from jobstore.tenants.keys import install_key
from worker.estimates.run import run_estimate
from worker.kit.sweeper import sweep

SETTINGS: dict[str, Any] = {"batch_size": 4, "resolution": 32}

pytestmark = pytest.mark.usefixtures("tenant")


def spec_of(**changes: Any) -> TrainingSpec:
    body = {"base_model": "emoji-dit", "dataset": "ds_1", "hyperparameters": SETTINGS} | changes
    dataset = DatasetSummary(sha256="ab", classes={"my cat": 12, "my dog": 8}, holds=["file", "label"])
    return resolve(JobSpec.model_validate(body), get_base_model(load_catalog(), "emoji-dit"), dataset)


def queue(sessions: sessionmaker[Session], key: str = "k", spec: TrainingSpec | None = None) -> str:
    with sessions.begin() as session:
        row, fresh = find_or_queue(session, key, cache_key(spec or spec_of()).model_dump(mode="json"))
        assert fresh
        assert row is not None
        return row.id


def find_or_queue(session: Session, key: str, spec: Json, tenant: str = "default") -> tuple[Estimate | None, bool]:
    tenant_id = session.scalars(select(Tenant.id).where(Tenant.name == tenant)).one()
    return estimates.find_or_queue(session, tenant_id, key, spec)


def get(sessions: sessionmaker[Session], estimate_id: str) -> Estimate:
    with sessions() as session:
        return session.get_one(Estimate, estimate_id)


def test_what_a_row_asks_for_is_computed_once(sessions: sessionmaker[Session], fast_settings: Settings) -> None:
    estimate_id = queue(sessions)
    run_estimate(estimate_id)
    run_estimate(estimate_id)  # a message that comes twice finds nothing to do
    row = get(sessions, estimate_id)
    assert (row.status, row.attempt, row.error) == ("succeeded", 1, None)
    needs = Needs.model_validate(row.result)
    assert needs.trained_parameters < needs.total_parameters
    assert needs.memory.total > needs.memory.frozen_weights > 0
    with sessions.begin() as session:
        assert find_or_queue(session, "k", {})[0] is not None


def test_nothing_of_a_tenant_is_in_the_row() -> None:
    spec = cache_key(spec_of())
    assert "my cat" not in spec.model_dump_json()
    assert spec.dataset.examples == 20
    assert len(spec.dataset.classes) == 2
    assert spec == cache_key(spec_of(seed=7, hyperparameters=SETTINGS | {"steps": 9, "learning_rate": 0.1}))
    assert spec != cache_key(spec_of(hyperparameters=SETTINGS | {"batch_size": 8}))
    assert spec != cache_key(spec_of(method={"type": "lora"}))


def test_a_base_that_is_not_there_is_the_reason(
    sessions: sessionmaker[Session], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast_settings: Settings
) -> None:
    absent = spec_of().model_copy(update={"base_model": "llama-7b"})
    estimate_id = queue(sessions, spec=absent)
    run_estimate(estimate_id)
    row = get(sessions, estimate_id)
    assert (row.status, row.result) == ("failed", None)
    assert row.error is not None
    assert row.error["code"] == "base_model_missing"
    with sessions.begin() as session:  # it would fail again
        assert find_or_queue(session, "k", {})[0] is not None


def test_an_accident_is_tried_again_after_a_while(
    sessions: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch, fast_settings: Settings
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    estimate_id = queue(sessions)
    with monkeypatch.context() as patch:
        patch.setattr("difffit_core.planning.plan.estimate", broken)
        run_estimate(estimate_id)
    row = get(sessions, estimate_id)
    assert row.error is not None
    assert (row.status, row.error["code"]) == ("failed", "estimate_failed")
    assert "ZeroDivisionError" in row.error["message"]
    with sessions.begin() as session:
        assert find_or_queue(session, "k", {})[1] is False
        session.execute(update(Estimate).values(finished_at=func.now() - estimates.FAILURE_KEPT - timedelta(seconds=1)))
    assert queue(sessions) != estimate_id


def test_a_row_whose_worker_fell_silent_is_queued_again_and_an_old_one_forgotten(
    sessions: sessionmaker[Session], fast_settings: Settings
) -> None:
    silent, old = queue(sessions, "silent"), queue(sessions, "old")
    with sessions.begin() as session:
        assert leases.claim(session, Estimate, silent, lease_seconds=-1) is not None
        session.execute(
            update(Estimate).where(Estimate.id == old).values(created_at=func.now() - estimates.KEPT - timedelta(seconds=1))
        )
    sweep(sessions, fast_settings)
    with sessions() as session:
        assert session.scalars(select(Estimate.id)).all() == [silent]
        assert session.get_one(Estimate, silent).status == "queued"


def test_of_each_tenant_only_so_many_wait_at_a_time(sessions: sessionmaker[Session]) -> None:
    for number in range(estimates.MOST_WAITING):
        queue(sessions, f"k{number}")
    with sessions.begin() as session:
        install_key(session, "another-tenants-key-0123456789", "another")
        assert find_or_queue(session, "one more", {}) == (None, False)
        assert find_or_queue(session, "k1", {})[0] is not None
        row, fresh = find_or_queue(session, "one more", {}, "another")
        assert (row and row.status, fresh) == ("queued", True)
        assert find_or_queue(session, "one more", {}) == (row, False)
