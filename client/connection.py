"""Requests to one server: every refusal is an exception, and what creates something is asked for again where that is safe."""

import secrets
import time
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from client.errors import ApiError, ConfigError, UnreachableError, error_of

TIMEOUT = httpx.Timeout(30.0, connect=10.0)
REPEAT_PAUSES = (1.0, 4.0, 30.0)  # seconds; the server gives a request that died half-way up after 30


class Connection:
    """What the methods of `Client` have in common."""

    def __init__(self, url: str, api_key: str) -> None:
        try:
            base = httpx.URL(url)
            headers = httpx.Headers({"authorization": f"Bearer {api_key}"}, encoding="ascii")
        except (httpx.InvalidURL, UnicodeEncodeError) as error:
            raise ConfigError(f"The server's address or key cannot be used: {error}") from error
        # A server on this machine is never reached through a proxy.
        self._http = httpx.Client(base_url=base, headers=headers, timeout=TIMEOUT, trust_env=not _is_local(base.host))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def _create(self, path: str, *, headers: Mapping[str, str] | None = None, **options: Any) -> Any:
        """POST what creates something. Where the answer is lost on the way it is asked for again: nothing is created twice."""
        headers = {**(headers or {}), "idempotency-key": secrets.token_hex(16)}
        for pause in REPEAT_PAUSES:
            try:
                return self._json("POST", path, headers=headers, **options)
            except UnreachableError as error:
                if isinstance(error.__cause__, httpx.ConnectError):
                    raise
            except ApiError as error:
                if error.code != "idempotency_key_in_use":
                    raise
            time.sleep(pause)
        return self._json("POST", path, headers=headers, **options)

    def _json(self, method: str, path: str, **options: Any) -> Any:
        response = self._request(method, path, **options)
        try:
            return response.json()
        except ValueError as error:
            raise error_of(response) from error

    def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **options)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        raise_for_refusal(response)
        return response

    def _unreachable(self, error: Exception) -> UnreachableError:
        what = str(error) or type(error).__name__
        return UnreachableError(f"No answer from {self._http.base_url}: {what}. Is the server running (`difffit up`)?")


def _is_local(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def raise_for_refusal(response: httpx.Response) -> None:
    if not response.is_success:
        response.read()
        raise error_of(response)


def path_of(*parts: str) -> str:
    """`/jobs/job_1/cancel`, whatever an id holds."""
    return "".join(f"/{quote(part, safe='')}" for part in parts)


def pauses(timeout: float | None) -> Iterator[None]:
    """Turns of a polling loop: at once, then after growing pauses of at most a second, until `timeout` seconds are over."""
    deadline = None if timeout is None else time.monotonic() + timeout
    pause = 0.05
    while deadline is None or time.monotonic() < deadline:
        yield
        time.sleep(pause)
        pause = min(1.0, pause * 1.5)
