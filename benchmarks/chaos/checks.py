"""What must be true at the end: every job ended once and as it should, nothing differs, nothing is left over."""

from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker

from benchmarks.chaos.load import ENDED, SEEDS, Tenant, Watched, digest
from client import Client
from jobstore.kit.objects import ObjectStore
from jobstore.kit.tables import Adapter, Checkpoint, Dataset, Image, Job, JobEvent
from jobstore.uploads.service import upload_keys
from worker.kit.garbage import PREFIXES, unnamed


@dataclass
class Found:
    """Counts of what is wrong; each problem is told in `problems`."""

    lost: int = 0
    duplicated: int = 0
    mismatched: int = 0
    events_wrong: int = 0
    orphans: int = 0
    refused: int = 0
    late: int = 0
    problems: list[str] = field(default_factory=list)

    def add(self, kind: str, what: str) -> None:
        setattr(self, kind, getattr(self, kind) + 1)
        self.problems.append(f"{kind}: {what}")

    def clean(self) -> bool:
        return not self.problems

    def counts(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class References:
    """The results of undisturbed runs, by seed."""

    adapters: dict[int, str]
    pictures: dict[int, str]


def references(client: Client, adapter_of: dict[int, str]) -> References:
    """From jobs that ran before any fault, and from pictures of the base."""
    pictures = {seed: picture_digest(client, make_picture(client, seed)) for seed in SEEDS}
    return References({seed: adapter_digest(client, adapter) for seed, adapter in adapter_of.items()}, pictures)


def make_picture(client: Client, seed: int) -> str:
    return client.generate([0], base_model="emoji-dit", steps=2, seed=seed)["id"]


def picture_digest(client: Client, generation: str) -> str:
    images = client.generation(generation)["images"]
    return digest(b"".join(client.image_bytes(image["url"]) for image in images)) if images else "none"


def adapter_digest(client: Client, adapter: str) -> str:
    return digest(client.image_bytes(f"/adapters/{adapter}/download"))


def check_tenant(found: Found, tenant: Tenant, known: References) -> None:
    for answer in tenant.refused:
        found.add("refused", answer)
    for request in tenant.late:
        found.add("late", request)
    with Client(tenant.url, tenant.key) as client:
        for job in tenant.jobs:
            _check_job(found, client, job, known)
        for seed, generation in tenant.pictures:
            status = client.generation(generation)["status"]
            if status != "succeeded":
                found.add("lost", f"{generation} is {status}")
            elif picture_digest(client, generation) != known.pictures[seed]:
                found.add("mismatched", generation)


def _check_job(found: Found, client: Client, job: Watched, known: References) -> None:
    now = client.job(job.id)
    allowed = {"succeeded", "cancelled"} if job.wish == "cancel" else {"succeeded"}
    if now["status"] not in allowed:
        found.add("lost", f"{job.id} is {now['status']}: {now['error']}")
    elif now["status"] == "succeeded" and (
        now["adapter"] is None or adapter_digest(client, now["adapter"]) != known.adapters[job.seed]
    ):
        found.add("mismatched", f"{job.id} {now['adapter']}")
    if job.sequences != list(range(1, len(job.sequences) + 1)):
        found.add("events_wrong", f"{job.id} streamed {job.sequences}")
    if not job.types or job.types[-1] != now["status"]:
        found.add("events_wrong", f"{job.id} is {now['status']} and its stream ended with {job.types[-1:]}")


def check_database(
    found: Found, sessions: sessionmaker[Session], objects: ObjectStore, accepted: Iterable[str], removed: Collection[str]
) -> None:
    """Rows that nobody was told of, events out of order, rows without files that were not `removed`, and files without rows."""
    with sessions() as session:
        jobs = set(session.scalars(select(Job.id)))
        for job_id in jobs - set(accepted):
            found.add("duplicated", f"{job_id} was made by a request that was answered with another")
        endings = select(JobEvent.job_id, func.count()).where(JobEvent.type.in_(ENDED)).group_by(JobEvent.job_id)
        for job_id, count in session.execute(endings.having(func.count() > 1)):
            found.add("duplicated", f"{job_id} ended {count} times")
        numbers = select(JobEvent.job_id, func.count(), func.max(JobEvent.sequence)).group_by(JobEvent.job_id)
        for job_id, count, last in session.execute(numbers):
            if count != last:
                found.add("events_wrong", f"{job_id} has {count} events up to number {last}")
        named = [key for model in (Checkpoint, Image, Adapter) for key in session.scalars(select(model.object_key))]
        for dataset in session.scalars(select(Dataset)):
            named += [*upload_keys(dataset), *filter(None, (dataset.content_key, dataset.preview_key))]
    for key in named:
        if key not in removed and not objects.exists(key):
            found.add("orphans", f"a row names {key}, which is not there")
    for key in unnamed(sessions, (file.key for prefix in PREFIXES for file in objects.list(prefix))):
        found.add("orphans", f"no row names {key}")
