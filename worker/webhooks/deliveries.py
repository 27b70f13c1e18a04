"""Delivers webhooks: `python -m worker.webhooks.deliveries`, a process of its own because it alone connects to where users say.

An address is checked after its name was looked up, and the connection goes to just that address. Redirects are not followed.
"""

import asyncio
import logging
import signal
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import httpx
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from standardwebhooks import Webhook as Signer

from difffit_core.errors import SpecError
from jobstore.kit.settings import Settings, get_settings
from jobstore.kit.tables import Delivery, Webhook
from jobstore.webhooks import addresses
from jobstore.webhooks import deliveries as webhooks
from worker.kit.runtime import sessions

logger = logging.getLogger(__name__)

AT_ONCE = 64  # deliveries on their way
POLL_SECONDS = 1.0  # between looks at the outbox
# For one delivery, however slowly an endpoint answers: a first attempt that hangs keeps a place from others for less time.
FIRST_SECONDS, WHOLE_SECONDS = 5.0, 15.0
THREADS = 256  # names are looked up in threads, and one whose server is silent keeps its thread for longer than its delivery
DEFAULT_PORTS = {"http": 80, "https": 443}


async def deliver_forever(stop: asyncio.Event, settings: Settings) -> None:
    """Deliver what is due until `stop` is set; then finish what is on its way."""
    on_their_way: dict[asyncio.Task[Any], Delivery] = {}
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS))
    stopping: asyncio.Task[Any] = asyncio.create_task(stop.wait())
    async with httpx.AsyncClient(trust_env=False, follow_redirects=False, timeout=WHOLE_SECONDS) as client:
        while not stop.is_set():
            if settings.heartbeat_file is not None:
                settings.heartbeat_file.touch()
            try:
                due = await asyncio.to_thread(_claim, AT_ONCE - len(on_their_way), list(on_their_way.values()))
            except SQLAlchemyError as error:
                logger.warning("The outbox cannot be read: %s", error)
                due = []
            for delivery, endpoint in due:
                task = asyncio.create_task(_deliver(client, delivery, endpoint, settings.webhook_private_addresses))
                on_their_way[task] = delivery
                task.add_done_callback(on_their_way.pop)
            await asyncio.wait({stopping, *on_their_way}, timeout=POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.gather(*on_their_way)


def _claim(most: int, on_their_way: list[Delivery]) -> list[tuple[Delivery, Webhook]]:
    if most <= 0:
        return []
    with sessions().begin() as session:
        due = webhooks.claim(session, most, on_their_way)
        endpoints = session.scalars(select(Webhook).where(Webhook.id.in_([delivery.webhook_id for delivery in due]))).all()
        by_id = {endpoint.id: endpoint for endpoint in endpoints}
        return [(delivery, by_id[delivery.webhook_id]) for delivery in due if delivery.webhook_id in by_id]


async def _deliver(client: httpx.AsyncClient, delivery: Delivery, endpoint: Webhook, allow_private: bool) -> None:
    status: int | None = None
    seconds = FIRST_SECONDS if delivery.attempts == 1 else WHOLE_SECONDS
    try:
        async with asyncio.timeout(seconds):
            status = await send(client, delivery, endpoint, allow_private)
        error = None if 200 <= status < 300 else f"The endpoint answered with status {status}."
        if 300 <= status < 400:
            error = f"The endpoint answered with a redirect ({status}), and those are not followed."
    except SpecError as refused:
        error = refused.message
    except TimeoutError:
        error = f"The endpoint did not answer within {seconds:.0f} seconds."
    except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as failure:
        error = f"The endpoint could not be reached: {failure or type(failure).__name__}."
    try:
        await asyncio.to_thread(_record, delivery, status, error)
    except SQLAlchemyError as failure:  # it is tried again when its lease is over
        logger.warning("What became of %s could not be written: %s", delivery.id, failure)


async def send(client: httpx.AsyncClient, delivery: Delivery, endpoint: Webhook, allow_private: bool) -> int:
    """Send one delivery; the status of the answer, whose body nobody reads. Raises SpecError, httpx.HTTPError, OSError."""
    url = httpx.URL(endpoint.url)
    address = await addresses.resolve(url.host, url.port or DEFAULT_PORTS[url.scheme], allow_private)
    now = datetime.now(UTC)
    headers = {
        "host": url.netloc.decode(),
        "content-type": "application/json",
        "user-agent": "DiffFit",
        "webhook-id": delivery.id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Signer(endpoint.secret).sign(delivery.id, now, delivery.body),
    }
    # To the address that was checked, and not to what the name says by now; the certificate is still that of the name.
    request = client.build_request(
        "POST", url.copy_with(host=address), content=delivery.body, headers=headers, extensions={"sni_hostname": url.host}
    )
    answer = await client.send(request, stream=True)
    await answer.aclose()
    return answer.status_code


def _record(delivery: Delivery, status: int | None, error: str | None) -> None:
    with sessions().begin() as session:
        webhooks.record(session, delivery, status, error)


async def main() -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await deliver_forever(stop, get_settings())


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    # Its lines name the URLs that users gave, and those can hold secrets.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    asyncio.run(main())
