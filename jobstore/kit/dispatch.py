"""The Celery application and the wake-up messages. A message carries a row's id only; the row is the truth."""

import logging
from functools import cache
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

from celery import Celery
from kombu import Exchange, Queue
from kombu.exceptions import OperationalError
from redis import Redis, RedisError

from jobstore.kit.settings import get_settings

logger = logging.getLogger(__name__)

Kind = Literal["train", "generate", "export", "evaluate", "estimate", "check_dataset"]
QUEUES: dict[Kind, str] = {
    "train": "train",
    "generate": "generate",
    "export": "generate",  # its workers have torch and the base models, and no work that takes hours
    "evaluate": "generate",  # it makes way for the others, see turns
    "estimate": "generate",  # it takes seconds where torch is loaded
    "check_dataset": "default",
}
# Longer than any task is reserved: below a task's length Redis would deliver its message a second time.
VISIBILITY_TIMEOUT = 86_400  # seconds
CONNECT_TIMEOUT = 3.0  # seconds
ENOUGH = 100  # messages; more than there are workers that could be idle


def broker_url(redis_url: str) -> str:
    """REDIS_URL as Celery wants it: redis-py's `unix:///path?db=0` becomes `redis+socket:///path?virtual_host=0`."""
    parts = urlsplit(redis_url)
    if parts.scheme != "unix":
        return redis_url
    database = parse_qs(parts.query).get("db", ["0"])[0]
    return f"redis+socket://{parts.path}?virtual_host={database}"


def _configuration() -> dict[str, Any]:
    return {
        "broker_url": broker_url(get_settings().redis_url.get_secret_value()),
        "broker_connection_retry_on_startup": True,
        "broker_transport_options": {
            "visibility_timeout": VISIBILITY_TIMEOUT,
            "socket_connect_timeout": CONNECT_TIMEOUT,
            # Of sending: no request waits for a broker that is away. A worker's own connection is tried for ever.
            "max_retries": 0,
        },
        "broker_connection_max_retries": None,
        "result_backend_transport_options": {"visibility_timeout": VISIBILITY_TIMEOUT},
        "visibility_timeout": VISIBILITY_TIMEOUT,
        "task_queues": [Queue(name, Exchange(name), routing_key=name) for name in dict.fromkeys(QUEUES.values())],
        "task_default_queue": QUEUES["check_dataset"],
        "task_routes": {f"difffit.{kind}": {"queue": queue} for kind, queue in QUEUES.items()},
        "task_ignore_result": True,
        # Early acks: with late ones a message is delivered again while its task still runs.
        "task_acks_late": False,
        "task_serializer": "json",
        "accept_content": ["json"],
        "worker_prefetch_multiplier": 1,
        "worker_disable_prefetch": True,
        "worker_pool": "prefork",
        "worker_concurrency": 1,
    }


celery_app = Celery("difffit")
celery_app.add_defaults(_configuration)  # a function, so that importing this module reads no settings


def wake(kind: Kind, *row_ids: str) -> None:
    """Tell workers that rows wait; call it after the commit. A broker that is away is logged: the sweeper sends again.

    A worker that is woken works off all that waits in its queue, and one that is idle takes a message at once: while `ENOUGH`
    messages of the queue are unread, one more would wake nobody.
    """
    if not row_ids:
        return
    try:
        for row_id in row_ids[: ENOUGH - _unread(kind)]:
            celery_app.send_task(f"difffit.{kind}", args=[row_id], retry=False)
    except (OperationalError, RedisError) as error:
        logger.warning("The messages for %s were not sent, the sweeper will send them again: %s", ", ".join(row_ids), error)


def _unread(kind: Kind) -> int:
    """Messages in the queue, `ENOUGH` at most."""
    # Celery would make a client for every question, which costs ten times as much as the answer.
    return min(ENOUGH, int(_broker(get_settings().redis_url.get_secret_value()).llen(QUEUES[kind])))


@cache
def _broker(url: str) -> Redis:
    return Redis.from_url(url, socket_connect_timeout=CONNECT_TIMEOUT, socket_timeout=CONNECT_TIMEOUT)
