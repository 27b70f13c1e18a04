"""How much does the API take? Requests a second beside a bare FastAPI route, uploads, and a queue of 10,000 jobs.

`python -m benchmarks.api_load [--json] [--seconds S] [--skip-training]`. Both routes are served by one uvicorn in one run:
only their ratio says something on a machine that does other things too.
"""

import argparse
import asyncio
import json
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from urllib.parse import urlsplit

import httpx
from fastapi import FastAPI
from sqlalchemy import insert, select, text, update
from sqlalchemy.orm import Session, sessionmaker
from starlette.types import ASGIApp, Receive, Scope, Send

from api.app import create_app
from benchmarks.service_start import job_start_seconds
from benchmarks.services import resident, running_api, running_service
from benchmarks.upload_memory import upload
from jobstore.jobs import queue
from jobstore.kit.database import make_engine, session_factory
from jobstore.kit.ids import new_id
from jobstore.kit.tables import Dataset, Job, Tenant

CONNECTIONS = 8  # that send at once
QUEUE_LENGTHS = (10, 1_000, 10_000)
CLAIMS = 30
UPLOAD_BYTES = 512 * 1024**2
KEY = f"difffit_{secrets.token_hex(16)}"


def side_by_side() -> ASGIApp:
    """The service, and a bare FastAPI app that answers /bare, in one process."""
    service, bare = create_app(), FastAPI()

    @bare.get("/bare")
    def answer() -> dict[str, str]:
        return {"status": "ok"}

    async def either(scope: Scope, receive: Receive, send: Send) -> None:
        await (bare if scope.get("path") == "/bare" else service)(scope, receive, send)

    return either


@dataclass(frozen=True)
class Api:
    """A running API without workers."""

    url: str
    pid: int
    sessions: sessionmaker[Session]

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {KEY}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="For each kind of request")
    parser.add_argument("--skip-training", action="store_true", help="Leave out the time from POST to the first step")
    parser.add_argument("--json", action="store_true", help="Print one JSON line")
    arguments = parser.parse_args()
    with measured_api() as api:
        found = {**requests(api, arguments.seconds), **uploads(api), "queue": queues(api)}
    if not arguments.skip_training:
        with (
            tempfile.TemporaryDirectory(prefix="difffit-benchmark-") as folder,
            running_service(Path(folder)) as (_, client, own),
        ):
            found |= job_start_seconds(client, own)
    if arguments.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name:<28} {value}")


@contextmanager
def measured_api() -> Iterator[Api]:
    """The API beside the bare route, with limits that nothing here reaches."""
    with running_api(KEY, "benchmarks.api_load:side_by_side", DIFFFIT_TENANT_QUEUED_JOBS="10000000") as api:
        engine = make_engine(f"postgresql+psycopg://{api.database_url.partition('://')[2]}")
        try:
            yield Api(api.url, api.pid, session_factory(engine))
        finally:
            engine.dispose()


def requests(api: Api, seconds: float) -> dict[str, Any]:
    """Each kind in turn, twice, and the better half of the two for each: a neighbour's burst is not ours.

    A round of POSTs begins with an empty queue and leaves some thousand jobs in it.
    """
    body = json.dumps({"base_model": "emoji-dit", "dataset": add_dataset(api)}).encode()
    as_json = api.headers | {"content-type": "application/json"}
    job_ids = [httpx.post(f"{api.url}/jobs", content=body, headers=as_json).json()["id"] for _ in range(CONNECTIONS)]
    with api.sessions.begin() as session:  # jobs are looked at while they run
        session.execute(update(Job).where(Job.id.in_(job_ids)).values(status="running"))
    looks = [f"/jobs/{job_id}" for job_id in job_ids]
    kinds = {"bare": ("GET", ["/bare"], b""), "get_job": ("GET", looks, b""), "post_job": ("POST", ["/jobs"], body)}
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in kinds}
    for _ in range(2):
        with api.sessions.begin() as session:
            session.execute(update(Job).where(Job.status == "queued").values(status="cancelled"))
        for name, (method, paths, data) in kinds.items():
            measured[name].append(asyncio.run(load(api, method, paths, data, seconds)))
    best = {name: max(runs, key=lambda run: run["per_second"]) for name, runs in measured.items()}
    ratios = {
        f"{name}_of_bare": round(best[name]["per_second"] / best["bare"]["per_second"], 3) for name in ("get_job", "post_job")
    }
    return best | ratios


async def load(api: Api, method: str, paths: list[str], body: bytes, seconds: float) -> dict[str, float]:
    """Requests one after the other on each of some connections, which share the paths; the rate, and how long one took."""
    parts = urlsplit(api.url)
    head = f"host: {parts.netloc}\r\nauthorization: {api.headers['authorization']}\r\n"
    if body:
        head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
    took = list[float]()
    until = time.perf_counter() + seconds

    async def send_on_one_connection(path: str) -> None:
        request = f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        while (began := time.perf_counter()) < until:
            writer.write(request)
            answer = await reader.readuntil(b"\r\n\r\n")
            if not answer.startswith(b"HTTP/1.1 20"):
                raise SystemExit(f"{method} {path} was answered with {answer[:40]!r}")
            length = answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length))
            took.append(time.perf_counter() - began)
        writer.close()

    await asyncio.gather(*(send_on_one_connection(paths[i % len(paths)]) for i in range(CONNECTIONS)))
    cuts = quantiles(took, n=100)
    return {"per_second": round(len(took) / seconds, 1), "p50_ms": round(1e3 * cuts[49], 2), "p99_ms": round(1e3 * cuts[98], 2)}


def uploads(api: Api) -> dict[str, float]:
    before, began = resident(api.pid), time.monotonic()
    upload(api.url, KEY, UPLOAD_BYTES)
    seconds = time.monotonic() - began
    return {
        "upload_mb_per_second": round(UPLOAD_BYTES / 1e6 / seconds, 1),
        "api_resident_mb": round(before / 1e6, 1),
        "api_resident_after_upload_mb": round(resident(api.pid) / 1e6, 1),
    }


def queues(api: Api) -> dict[str, dict[str, float]]:
    """Milliseconds to claim the next job and to list a page, by the number of jobs that wait."""
    with api.sessions.begin() as session:
        session.query(Job).update({"status": "cancelled"})
    found, waiting = {}, 0
    for length in QUEUE_LENGTHS:
        add_jobs(api, length - waiting)
        waiting = length - CLAIMS if length > CLAIMS else 0
        found[str(length)] = {"claim_ms": claim_ms(api, min(CLAIMS, length)), "list_ms": list_ms(api)}
    return found


def claim_ms(api: Api, claims: int) -> float:
    took = []
    for _ in range(claims):
        began = time.perf_counter()
        with api.sessions.begin() as session:
            assert queue.claim_next(session, 60.0, 10**9) is not None
        took.append(time.perf_counter() - began)
    return round(1e3 * median(took), 2)


def list_ms(api: Api) -> float:
    took = []
    with httpx.Client(base_url=api.url, headers=api.headers, timeout=60) as client:
        for _ in range(10):
            began = time.perf_counter()
            client.get("/jobs", params={"limit": 100}).raise_for_status()
            took.append(time.perf_counter() - began)
    return round(1e3 * median(took), 2)


def add_dataset(api: Api) -> str:
    """A dataset as a check leaves it."""
    with api.sessions.begin() as session:
        tenant = session.scalars(select(Tenant.id)).one()
        row = Dataset(id=new_id("ds"), tenant_id=tenant, name="load", status="ready", upload_key="none", upload_bytes=1)
        row.classes, row.holds, row.sha256 = {"cat": 12, "dog": 8}, ["file", "label"], "5" * 64
        session.add(row)
        return row.id


def add_jobs(api: Api, count: int) -> None:
    """Copies of the first job, waiting."""
    with api.sessions.begin() as session:
        first = session.scalars(select(Job).order_by(Job.id).limit(1)).one()
        columns = {column.name: getattr(first, column.name) for column in Job.__table__.columns}
        columns |= {"status": "queued", "finished_at": None}
        session.execute(insert(Job), [columns | {"id": new_id("job")} for _ in range(count)])
    with api.sessions() as session:
        session.execute(text("ANALYZE jobs"))  # as autovacuum would after a while: it plans by the size of the table
        session.commit()


if __name__ == "__main__":
    main()
