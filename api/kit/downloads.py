"""Answers that are files of the object store: streamed, or where the store can be asked directly, a redirect to it."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from fastapi.responses import RedirectResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from jobstore.kit.objects import ObjectStore


class FileAnswer(Response):
    """A file of the store, which is asked for it when the answer is sent: after the request's transaction.

    So nothing that the store takes its time over holds a connection or a row of the database. A file that is missing answers
    503 (`object_missing`).
    """

    def __init__(
        self,
        store: ObjectStore,
        key: str,
        media_type: str,
        headers: Mapping[str, str] | None = None,
        status: int = 200,
        redirects: bool = False,
    ) -> None:
        """With `redirects` a store that signs URLs sends the file itself."""
        super().__init__(None, status, headers, media_type)
        self._store, self._key, self._redirects = store, key, redirects

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = await self._ask()
        await answer(scope, receive, send)

    async def _ask(self) -> Response:
        if self._redirects and (signed := await run_in_threadpool(self._store.signed_url, self._key)) is not None:
            return RedirectResponse(signed)  # it is good for some minutes
        size, chunks = await self._store.open(self._key)
        return StreamingResponse(chunks, self.status_code, dict(self.headers) | {"content-length": str(size)})


class FilesAnswer(Response):
    """Files of the store, one behind the other; `keys` asks the store which, and raises where there are none."""

    def __init__(self, store: ObjectStore, keys: Callable[[], Awaitable[list[str]]], media_type: str) -> None:
        super().__init__(None, media_type=media_type)
        self._store, self._keys = store, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        keys = await self._keys()
        answer = StreamingResponse(self._chunks(keys), self.status_code, media_type=self.media_type)
        await answer(scope, receive, send)

    async def _chunks(self, keys: list[str]) -> AsyncIterator[bytes]:
        for key in keys:
            _, chunks = await self._store.open(key)
            async for chunk in chunks:
                yield chunk


def attachment(name: str) -> dict[str, str]:
    """The header by which browsers save a file under this name."""
    return {"content-disposition": f'attachment; filename="{name}"'}
