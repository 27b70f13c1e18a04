"""What the routes are given: the process's resources and a transaction; and the one place that filters rows by tenant."""

import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import Depends, Request
from fastapi.concurrency import contextmanager_in_threadpool
from sqlalchemy import ColumnElement, Row, Select, String, func, select, true
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import InstrumentedAttribute, Session, sessionmaker

from api.generations.prompts import TokenCounter
from api.kit.database_turns import DatabaseTurns
from api.kit.keyring import KeyRing
from api.kit.notifications import Notifications
from api.kit.rates import Rates
from api.kit.readiness import Readiness
from api.kit.request_batcher import Answer, Asked, RequestBatcher
from difffit_core.errors import DiffFitError
from difffit_core.spec.catalog import BaseModelEntry
from jobstore.generations.text_stream import TextReader
from jobstore.kit.database import Prepared, given
from jobstore.kit.errors import NotFoundError, StorageError
from jobstore.kit.objects import ObjectStore
from jobstore.kit.settings import Settings
from jobstore.kit.tables import Adapter, ApiKey, Dataset, Delivery, Evaluation, Generation, Image, Job, Upload, Webhook
from jobstore.tenants.quotas import Fullness

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")
Owned = TypeVar("Owned", Dataset, Job, Adapter, Generation, Evaluation, Image, ApiKey, Webhook, Delivery, Upload)

FILING_THREADS = 20  # that may wait for the object store

NOUNS = {"ApiKey": "key"}  # what errors call a row whose class is called otherwise

DELETED_AT: dict[type, InstrumentedAttribute[Any]] = {Job: Job.deleted_at, Adapter: Adapter.deleted_at}


@dataclass(frozen=True)
class Resources:
    """What lives as long as the process."""

    settings: Settings
    sessions: sessionmaker[Session]
    reading: sessionmaker[Session]
    store: ObjectStore
    catalog: dict[str, BaseModelEntry]
    notifications: Notifications
    keyring: KeyRing
    rates: Rates
    texts: TextReader
    turns: DatabaseTurns
    readiness: Readiness = field(default_factory=Readiness)
    fullness: Fullness = field(default_factory=Fullness)
    # One thread takes forms apart, whatever many send: the event loop shares the interpreter with it alone.
    lane: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(1))
    filing: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(FILING_THREADS))
    prompts: TokenCounter = field(default_factory=TokenCounter)
    gathered: dict[object, RequestBatcher[Any, Any]] = field(default_factory=dict)  # by the function that answers

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """The boundary of a transaction in a thread: commits, then does what `after_commit` noted, such as waking a worker."""
        with self.sessions.begin() as session:
            yield session
        finish(session)

    async def in_store(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function that asks the object store, in a thread: a slow store takes none of those of other work."""
        return await to_thread.run_sync(partial(function, *args, **kwargs), limiter=self.filing)

    async def together(
        self, answer: Callable[["Resources", list[Asked]], Sequence[Answer | DiffFitError]], asked: Asked
    ) -> Answer:
        """What `answer` says of this request, which it is given with all others for it that come at the same time."""
        gathering: RequestBatcher[Asked, Answer] = self.gathered.setdefault(
            answer, RequestBatcher(partial(answer, self), self.turns.run)
        )
        return await gathering.ask(asked)


def finish(session: Session) -> None:
    """Do what was noted for after the commit."""
    for action in session.info.pop("after_commit", []):
        action()


def after_commit(session: Session, action: Callable[[], object]) -> None:
    """Do this once the transaction is committed; not at all if it is rolled back."""
    session.info.setdefault("after_commit", []).append(action)


def discard(session: Session, store: ObjectStore, keys: Iterable[str]) -> None:
    """Delete files once the transaction that deletes their rows is committed; what fails is left to the garbage collector."""

    def delete() -> None:
        try:
            for key in keys:
                store.delete(key)
        except StorageError:
            logger.exception("Deleted files stay until the next collection of garbage")

    after_commit(session, delete)


async def get_resources(request: Request) -> Resources:  # otherwise it would be run in a thread
    resources: Resources = request.app.state.resources
    return resources


async def get_transaction(resources: Annotated[Resources, Depends(get_resources)]) -> AsyncIterator[Session]:
    async with resources.turns.of_request(), contextmanager_in_threadpool(resources.sessions.begin()) as session:
        yield session
    if "after_commit" in session.info:
        await resources.in_store(finish, session)


ResourcesDep = Annotated[Resources, Depends(get_resources)]
# "function": the commit comes before the answer is sent, so that a 202 is never a promise that was rolled back.
Transaction = Annotated[Session, Depends(get_transaction, scope="function")]


def owned_rows(model: type[Owned], tenant: str | ColumnElement[str]) -> Select[Owned]:
    """The rows of the tenant that are not deleted: every query for such rows begins here."""
    rows = select(model).where(model.tenant_id == tenant)
    deleted_at = DELETED_AT.get(model)
    return rows if deleted_at is None else rows.where(deleted_at.is_(None))


def owned(
    session: Session,
    model: type[Owned],
    row_id: str,
    tenant: str,
    param: str | None = None,
    keep: bool = False,
    alone: bool = False,
) -> Owned:
    """The row; raises NotFoundError where there is none or it belongs to another tenant.

    With `keep` nobody deletes it until the commit: for rows that come to name it. With `alone` nobody changes it either.
    """
    rows = owned_rows(model, tenant).where(model.id == row_id)
    if keep or alone:
        rows = rows.with_for_update(read=not alone)
    found = session.scalar(rows) if "\0" not in row_id else None
    if found is None:
        raise not_found(model, row_id, param)
    return found


# Rows that several requests want, each with its caller's tenant.
ASKED = (
    func.unnest(given("ids", ARRAY(String)), given("tenants", ARRAY(String)))
    .table_valued("id", "tenant")
    .render_derived(name="asked")
)


def asked_rows(model: type[Owned]) -> Select[Owned]:
    return owned_rows(model, ASKED.c.tenant).where(model.id == ASKED.c.id)


def each_asked(rows: Select[*tuple[Any, ...]]) -> Prepared:
    """A query made of `asked_rows`, with `id` and `tenant_id`; what `find_asked` runs."""
    # OFFSET 0: each row is looked up by itself. The plan of a join, made while the table is empty, would go on scanning it.
    one = rows.offset(0).lateral("found")
    return Prepared(select(one).select_from(ASKED.join(one, true())))


def find_asked(session: Session, rows: Prepared, asked: Collection[tuple[str, str]]) -> dict[tuple[str, str], Row[Any]]:
    """{(id, tenant): columns} of those of the rows that there are and that are the tenant's."""
    wanted = [(row_id, tenant) for row_id, tenant in asked if "\0" not in row_id]
    found = rows.run(session, ids=[row_id for row_id, _ in wanted], tenants=[tenant for _, tenant in wanted])
    return {(row.id, row.tenant_id): row for row in found}


def not_found(model: type[Owned], row_id: str, param: str | None) -> NotFoundError:
    noun = NOUNS.get(model.__name__, model.__name__.lower())
    return NotFoundError(f"There is no {noun} {row_id[:80]!r}.", code=f"{noun}_not_found", param=param)
