"""A tenant's stream of work: jobs and pictures whose results are known, and a record of everything that was answered."""

import hashlib
import random
import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

from benchmarks.chaos.stack import LEASE_SECONDS
from client import Client
from client.errors import ApiError, UnreachableError
from client.responses import Event

BASE = "emoji-dit"
SEEDS = (1, 2, 3)  # of the jobs; each gives another adapter
STEPS = 16
OUTSTANDING = 2  # jobs of a tenant that wait or run at once
PICTURES_EVERY = 2.0  # seconds, at least
WISHES = {"cancel": 0.15, "pause": 0.3}  # the share of jobs of which each is asked
# Until a request is answered, if with 503: as long as a database that hangs makes it wait (docs/operating.md), and an API that
# is stopped besides. Less than the longest fault.
ANSWER_SECONDS = 2 * 8.0 + 7.0 + LEASE_SECONDS + 3.0
ENDED = {"succeeded", "failed", "cancelled"}


def job_spec(dataset: str, seed: int) -> dict[str, Any]:
    """A job of some seconds, most of which a fault can hit."""
    settings: dict[str, Any] = {"steps": STEPS, "batch_size": 4, "checkpoint_every": 4, "sample_every": 8, "sample_steps": 1}
    settings |= {"validation_fraction": 0.0}
    return {"base_model": BASE, "dataset": dataset, "seed": seed, "hyperparameters": settings}


def picture_request(seed: int) -> dict[str, Any]:
    return {"base_model": BASE, "labels": [0], "n": 1, "steps": 2, "seed": seed}


@dataclass
class Watched:
    """A job that was accepted, and what its event stream told."""

    id: str
    seed: int
    wish: str | None
    sequences: list[int] = field(default_factory=list)
    types: list[str] = field(default_factory=list)


class Tenant:
    """Posts, watches and collects, through faults. Every request is repeated until it is answered."""

    def __init__(self, url: str, key: str, dataset: str, seed: int) -> None:
        self.url, self.key, self.dataset, self.random = url, key, dataset, random.Random(seed)
        self.jobs: list[Watched] = []
        self.pictures: list[tuple[int, str]] = []  # (seed, generation)
        self.refused: list[str] = []  # answers that no fault excuses
        self.late: list[str] = []  # requests that were not answered in time
        self.progress: list[float] = []  # when a training step was told of (time.monotonic)
        self.stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def run(self) -> None:
        """Keep the work going until `stop` is set."""
        with Client(self.url, self.key) as client:
            pictures_at = 0.0
            while not self.stop.is_set():
                if len([thread for thread in self._threads if thread.is_alive()]) < OUTSTANDING:
                    self._post_job()
                if time.monotonic() > pictures_at:
                    self._post_picture()
                    pictures_at = time.monotonic() + PICTURES_EVERY
                self._make_wishes(client)
                self.stop.wait(0.2)

    def join(self, seconds: float) -> None:
        """Wait for the streams of all jobs to end."""
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _post_job(self) -> None:
        seed = self.random.choice(SEEDS)
        made = self.post("/jobs", job_spec(self.dataset, seed))
        if made is None:
            return
        dice, wish = self.random.random(), None
        for name, share in WISHES.items():
            wish, dice = (name, 2.0) if dice < share else (wish, dice - share)
        job = Watched(str(made["id"]), seed, wish)
        self.jobs.append(job)
        thread = threading.Thread(target=self._watch, args=(job,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _post_picture(self) -> None:
        seed = self.random.choice(SEEDS)
        made = self.post("/generate", picture_request(seed))
        if made is not None:
            self.pictures.append((seed, str(made["id"])))

    def _make_wishes(self, client: Client) -> None:
        """Pause or cancel a job that has begun, and resume what is paused; a conflict says that it ended first."""
        for job in self.jobs:
            if job.wish is None or (job.types and job.types[-1] in ENDED) or "progress" not in job.types:
                continue
            try:
                status = client.job(job.id)["status"]
                if status == "paused":
                    client.resume_job(job.id)
                    job.wish = None
                elif status in {"queued", "running"}:
                    (client.cancel_job if job.wish == "cancel" else client.pause_job)(job.id)
            except UnreachableError:
                return
            except ApiError as error:
                if error.status not in {409, 429, 500, 503}:
                    self.refused.append(f"{error.status} {error.code}")

    def _watch(self, job: Watched) -> None:
        """Follow the job's stream, through every break, to its end."""
        after = 0
        while not (job.types and job.types[-1] in ENDED):
            try:
                with Client(self.url, self.key) as client:
                    for event in client.watch_job(job.id, after=after):
                        after = event["sequence"]
                        self._note(job, event)
            except (UnreachableError, ApiError):
                time.sleep(0.5)

    def _note(self, job: Watched, event: Event) -> None:
        job.sequences.append(event["sequence"])
        job.types.append(event["type"])
        if event["type"] == "progress":
            self.progress.append(time.monotonic())

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        """The answer to one request, repeated under one Idempotency-Key until there is one; None where it is refused."""
        headers = {"authorization": f"Bearer {self.key}", "idempotency-key": secrets.token_hex(16)}
        while True:
            try:
                answer = httpx.post(self.url + path, json=body, headers=headers, timeout=ANSWER_SECONDS, trust_env=False)
            except httpx.TransportError as error:
                if isinstance(error, httpx.ReadTimeout):
                    self.late.append(f"POST {path} had no answer after {ANSWER_SECONDS:g} s")
                time.sleep(0.3)
                continue
            if answer.status_code < 300:
                made: dict[str, Any] = answer.json()
                return made
            if answer.status_code not in {409, 429, 500, 503}:
                self.refused.append(f"{answer.status_code} {answer.text[:200]}")
                return None
            time.sleep(0.3)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
