"""Requests of one kind that come at the same time are answered together: in one turn of a thread, by one transaction."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

from sqlalchemy.exc import DataError

from difffit_core.errors import DiffFitError

MOST = 50  # requests that are answered at once

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


class RequestBatcher(Generic[Asked, Answer]):
    """Collects requests: those that come while others are being answered are the next, all at once.

    So an idle process answers each request immediately, and a busy one asks the database once for many. `answer` gives the
    answer to each request, or the error that this one ends with, in their order; what it raises is the answer to all of them.
    """

    def __init__(
        self,
        answer: Callable[[list[Asked]], Sequence[Answer | DiffFitError]],
        in_thread: Callable[[Callable[[list[Asked]], Any], list[Asked]], Awaitable[Any]],
    ) -> None:
        """`in_thread` runs a function with its argument in a thread."""
        self._answer, self._in_thread = answer, in_thread
        self._waiting: list[tuple[Asked, asyncio.Future[Answer]]] = []
        self._working: asyncio.Task[None] | None = None

    async def ask(self, asked: Asked) -> Answer:
        """The answer to this request; raises the error that it ends with."""
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((asked, answered))
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())
        return await answered

    async def _work(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
            answers = await self._answers_to([asked for asked, _ in batch])
            for (_, answered), answer in zip(batch, answers, strict=True):
                if answered.done():  # its client went away
                    continue
                if isinstance(answer, Exception):
                    answered.set_exception(answer)
                else:
                    answered.set_result(answer)

    async def _answers_to(self, asked: list[Asked]) -> Sequence[Answer | Exception]:
        try:
            found: Sequence[Answer | Exception] = await self._in_thread(self._answers, asked)
        except DiffFitError as error:  # no thread was free in time
            return [error] * len(asked)
        return found

    def _answers(self, asked: list[Asked]) -> Sequence[Answer | Exception]:
        try:
            return self._answer(asked)
        except (DataError, ValueError) as error:  # one of them brings a text that cannot be stored
            return [error] if len(asked) == 1 else [answer for one in asked for answer in self._answers([one])]
        except Exception as error:
            return [error] * len(asked)
