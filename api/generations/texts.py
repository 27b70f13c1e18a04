"""A generation's words as Server-Sent Events while they are written; the last event is the generation as it ended."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

from redis import RedisError

from api.generations.schemas import GenerationView
from api.kit.keyring import KeyWatch
from api.kit.notifications import wait
from jobstore.generations.text_stream import TextReader
from jobstore.kit.errors import NotFoundError

logger = logging.getLogger(__name__)

WAIT_SECONDS = 1.0  # for a word
PING_SECONDS = 15.0  # proxies close a connection that is silent for a minute; the row is looked at as well
PING = b": ping\n\n"
DELETED = b"event: deleted\ndata: {}\n\n"


async def stream_texts(
    reader: TextReader,
    changed: asyncio.Event,
    key: KeyWatch,
    look: Callable[[], Awaitable[GenerationView]],
    after: str,
) -> AsyncIterator[bytes]:
    """What was written after the id `after`, then each word as it comes; ends with the caller's key, too.

    `look` reads the generation; that is done again when it or the key has `changed`. Where Valkey is away the words come with
    the end.
    """
    stale, quiet = True, 0.0
    while True:
        if stale:
            changed.clear()
            if not await key.opens():
                return
            try:
                view, quiet = await look(), 0.0
            except NotFoundError:
                yield DELETED
                return
        ended = view.finished_at is not None  # known before the words are read: so the last ones are never missed
        try:
            entries = await reader.read(view.id, after, 1 if ended else int(WAIT_SECONDS * 1000))
        except RedisError as error:
            logger.warning("The words of %s cannot be read while they come: %s", view.id, error)
            entries = []
            await wait(changed, 0 if ended else WAIT_SECONDS)
        for entry, event, data in entries:
            after = entry
            yield f"id: {entry}\nevent: {event}\ndata: {data}\n\n".encode()
        if ended and not entries:
            yield f"event: {view.status}\ndata: {view.model_dump_json()}\n\n".encode()
            return
        quiet = 0.0 if entries else quiet + WAIT_SECONDS
        if quiet >= PING_SECONDS:
            yield PING
        stale = changed.is_set() or quiet >= PING_SECONDS or not key.seconds_left
