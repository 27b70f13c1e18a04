"""Messages that got lost are sent again, whatever else is in their queue."""

import json
from datetime import timedelta

import pytest
import redis
from sqlalchemy import func, update
from sqlalchemy.orm import Session, sessionmaker

from jobstore.kit import turns
from jobstore.kit.dispatch import QUEUES, Kind, wake
from jobstore.kit.settings import Settings
from jobstore.kit.tables import Tenant
from tests.jobstore.kit.test_turns import add
from tests.jobstore.rows import add_job
from worker.kit.sweeper import sweep


@pytest.mark.parametrize("lost", QUEUES)
@pytest.mark.parametrize("there", QUEUES)
def test_a_lost_message_is_sent_again_beside_others(
    sessions: sessionmaker[Session], tenant: Tenant, fast_settings: Settings, lost: Kind, there: Kind
) -> None:
    """Once in each sweep's time, and only for rows that have waited for so long."""
    if lost == "train":
        with sessions.begin() as session:
            row_id = add_job(session, tenant).id
    else:
        (row_id,) = add(sessions, tenant, lost)
    wake(there, "of_another")
    with redis.Redis.from_url(fast_settings.redis_url.get_secret_value()) as client:

        def sent() -> list[str]:
            messages = [json.loads(message)["headers"] for message in client.lrange(QUEUES[lost], 0, -1)]
            return [found["task"] for found in messages if found["argsrepr"] == f"['{row_id}']"]

        patient = fast_settings.model_copy(update={"sweep_seconds": 3600.0})
        sweep(sessions, patient)
        assert sent() == []
        with sessions.begin() as session:
            session.execute(update(turns.MODELS[lost]).values(created_at=func.now() - timedelta(days=1)))
        for _ in range(2):
            sweep(sessions, patient)
            assert sent() == [f"difffit.{lost}"]
