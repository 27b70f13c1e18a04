"""For the operator: is the process alive, are the servers it needs there, and how many jobs are in which status."""

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from anyio import to_thread
from fastapi import APIRouter, Response
from sqlalchemy import func, select

from api.kit.answers import errors, file_answer
from api.kit.auth import TenantId
from api.kit.dependencies import Resources, ResourcesDep, Transaction, owned_rows
from api.kit.errors import UnavailableError
from jobstore.jobs.lifecycle import JobStatus
from jobstore.kit.dispatch import celery_app
from jobstore.kit.tables import Job

logger = logging.getLogger(__name__)

router = APIRouter(tags=["health"])

CHECK_SECONDS = 3.0  # a probe usually gives up after 5


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz", responses={key: value for key, value in errors().items() if key == 503})
async def readyz(resources: ResourcesDep) -> dict[str, str]:
    """Database, broker and object store answer, some seconds ago at most; else 503 with the names of those that do not."""
    away = await resources.readiness.ask(partial(_look_at_all, resources))
    if away:
        raise UnavailableError(f"Not reachable: {', '.join(away)}. The server's log has the reasons.")
    return {"status": "ready"}


async def _look_at_all(resources: Resources) -> list[str]:
    """The names of the parts that are away."""
    parts: dict[str, Callable[[Resources], object]] = {
        "database": _check_database,
        "broker": _check_broker,
        "object store": _check_store,
    }
    results = await asyncio.gather(*(_works(name, check, resources) for name, check in parts.items()))
    return [name for name, works in zip(parts, results, strict=True) if not works]


async def _works(name: str, check: Callable[[Resources], object], resources: Resources) -> bool:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await to_thread.run_sync(check, resources, abandon_on_cancel=True, limiter=resources.readiness.threads)
    except Exception as error:  # whatever it is, the part does not work
        logger.warning("The %s does not answer: %r", name, error)
        return False
    return True


def _check_database(resources: Resources) -> None:
    with resources.sessions() as session:
        session.scalar(select(1))


def _check_broker(_resources: Resources) -> None:
    with celery_app.connection_for_write() as connection:
        connection.ensure_connection(max_retries=1, timeout=CHECK_SECONDS)


def _check_store(resources: Resources) -> None:
    resources.store.put_bytes("readiness", b"")


@router.get("/metrics", response_class=Response, responses=file_answer("text/plain", "Prometheus text") | errors())
def metrics(tenant: TenantId, session: Transaction) -> Response:
    """Prometheus text: this key's jobs by status."""
    rows = owned_rows(Job, tenant).with_only_columns(Job.status, func.count()).group_by(Job.status)
    counts = dict(session.execute(rows).all())
    lines = ["# HELP difffit_jobs Jobs of this key's tenant by status.", "# TYPE difffit_jobs gauge"]
    lines += [f'difffit_jobs{{status="{status}"}} {counts.get(status, 0)}' for status in JobStatus]
    return Response("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4")
