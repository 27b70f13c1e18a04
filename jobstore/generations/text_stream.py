"""The words of a language model while they are written: a stream in Valkey for each generation, for those who watch.

The row is the truth: what is lost here comes with the finished generation.
"""

import json
import logging
from typing import Any

from redis import Redis, RedisError
from redis.asyncio import Redis as AsyncRedis

from jobstore.kit.tables import Json

logger = logging.getLogger(__name__)

KEPT_SECONDS = 600  # after the last word
BATCH = 500


def key_of(generation_id: str) -> str:
    return f"difffit-texts:{generation_id}"


class TextWriter:
    """Appends the words of one attempt at a generation. Where Valkey is away nobody watches, and the work goes on."""

    def __init__(self, redis_url: str, generation_id: str) -> None:
        self._redis = Redis.from_url(redis_url, socket_timeout=1.0, socket_connect_timeout=1.0)
        self._key = key_of(generation_id)
        self._append("begin", {})

    def write(self, index: int, text: str) -> None:
        """`text` comes next in the answer to prompt `index`."""
        self._append("text", {"index": index, "text": text})

    def _append(self, event: str, data: Json) -> None:
        try:
            with self._redis.pipeline(transaction=False) as pipeline:
                pipeline.xadd(self._key, {"event": event, "data": json.dumps(data)})
                pipeline.expire(self._key, KEPT_SECONDS)
                pipeline.execute()
        except RedisError as error:
            logger.warning("Words of %s are not shown while they come: %s", self._key, error)


class TextReader:
    """Reads what is written, for any number of watchers. Raises RedisError where Valkey is away."""

    def __init__(self, redis_url: str) -> None:
        self._redis: Any = AsyncRedis.from_url(redis_url, decode_responses=True, socket_connect_timeout=1.0)

    async def close(self) -> None:
        await self._redis.aclose()

    async def read(self, generation_id: str, after: str, milliseconds: int) -> list[tuple[str, str, str]]:
        """The next (id, event, data) after the id `after`, "0" for all; none where nothing comes for so long.

        `begin` says that a worker starts: what came before it is void.
        """
        found = await self._redis.xread({key_of(generation_id): after}, count=BATCH, block=milliseconds)
        return [(entry, fields["event"], fields["data"]) for _, entries in found for entry, fields in entries]
