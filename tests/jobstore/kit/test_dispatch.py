"""Wake-up messages: the right queue, the id only, and no failure where the broker is away."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from jobstore.kit.dispatch import ENOUGH, QUEUES, Kind, broker_url, celery_app, wake
from jobstore.kit.settings import Settings


@pytest.mark.parametrize("kind", QUEUES)
def test_a_message_carries_the_id_to_the_right_queue(settings: Settings, kind: Kind) -> None:
    wake(kind, "job_1")
    with redis.Redis.from_url(settings.redis_url.get_secret_value()) as client:
        assert {name: client.llen(name) for name in QUEUES.values()} == {name: name == QUEUES[kind] for name in QUEUES.values()}
        message = json.loads(str(client.lpop(QUEUES[kind]), "utf-8"))
    assert message["headers"]["task"] == f"difffit.{kind}"
    assert message["headers"]["argsrepr"] == "['job_1']"


@pytest.mark.parametrize("kind", QUEUES)
def test_no_more_workers_are_woken_than_could_be_idle(settings: Settings, kind: Kind) -> None:
    """Each message has its worker work off the whole queue."""
    ids, queue = [f"row_{number}" for number in range(ENOUGH + 20)], QUEUES[kind]
    with redis.Redis.from_url(settings.redis_url.get_secret_value()) as client:
        wake(kind, *ids)
        assert client.llen(queue) == ENOUGH
        wake(kind, "row_late")
        assert client.llen(queue) == ENOUGH
        for _ in range(3):  # a worker takes them
            client.rpop(queue)
        wake(kind, *ids)
        assert client.llen(queue) == ENOUGH


def test_messages_are_acknowledged_early_and_never_delivered_twice(settings: Settings) -> None:
    conf = celery_app.conf
    assert conf.task_acks_late is False
    assert conf.worker_prefetch_multiplier == 1
    assert conf.worker_disable_prefetch is True
    assert conf.task_ignore_result is True
    timeouts = {
        conf.visibility_timeout,
        conf.broker_transport_options["visibility_timeout"],
        conf.result_backend_transport_options["visibility_timeout"],
    }
    assert timeouts == {86_400}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("redis://:secret@host:6379/2", "redis://:secret@host:6379/2"),
        ("unix:///a%20b/valkey.sock?db=3", "redis+socket:///a%20b/valkey.sock?virtual_host=3"),
        ("unix:///run/valkey.sock", "redis+socket:///run/valkey.sock?virtual_host=0"),
    ],
)
def test_one_redis_url_serves_both_libraries(given: str, expected: str) -> None:
    assert broker_url(given) == expected


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0", "unix:///nowhere/valkey.sock"])
def test_a_broker_that_is_away_is_logged_and_not_raised(settings: Settings, url: str) -> None:
    """In a process of its own, because the Celery application is configured once in a process."""
    program = "import logging; logging.basicConfig(); from jobstore.kit.dispatch import wake; wake('train', 'job_1')"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "REDIS_URL": url},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert logging.getLevelName(logging.WARNING) in done.stderr
    assert "job_1" in done.stderr
