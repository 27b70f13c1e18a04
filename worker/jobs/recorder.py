"""Turns what a trainer reports into rows, events and objects; every write is guarded by the job's lease."""

import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image as PillowImage
from sqlalchemy import Select, delete, select
from sqlalchemy.orm import Session, sessionmaker

from difffit_core.training.checkpoints import newest_first, step_name, step_of
from jobstore.datasets import encodings
from jobstore.jobs import events
from jobstore.kit.errors import StorageError
from jobstore.kit.ids import new_id
from jobstore.kit.objects import ObjectStore, job_prefix
from jobstore.kit.settings import get_settings
from jobstore.kit.tables import Adapter, Checkpoint, Encoding, Image, Job
from worker.datasets.encodings import StagedEncodings, encodings_object
from worker.jobs.files import put_checkpoint, put_references
from worker.kit.child import Event
from worker.kit.lease import Lease
from worker.kit.outages import persist

logger = logging.getLogger(__name__)

Row = TypeVar("Row", Checkpoint, Image, Adapter)

INTERVAL = 0.5  # seconds between two rows of the frequent kinds; people cannot read faster
FREQUENT = {"progress", "encoding", "evaluating"}
ENDINGS = {"succeeded", "stopped", "failed"}  # what they mean for the job is the supervisor's decision


class Recorder:
    """Writes one job's events in order. Frequent ones that come too fast are held back, and the newest is kept."""

    def __init__(
        self,
        sessions: sessionmaker[Session],
        objects: ObjectStore,
        lease: Lease,
        job: Job,
        spec_dir: Path,
        staged: StagedEncodings,
    ) -> None:
        self._sessions, self._objects, self._lease, self._spec_dir = sessions, objects, lease, spec_dir
        self._staged = staged
        self._job, self._losses = job, dict(job.losses)
        # No other attempt has these keys: a worker that lost its job cannot change a file that its successor's rows name.
        self._prefix = f"{job_prefix(job.id)}{lease.token}/"
        self._held_back: Event | None = None
        self._frequent_at = -INTERVAL
        self.ending: Event | None = None
        self._handlers: dict[str, Callable[[Event], None]] = {
            "started": self._started,
            "encoded": self._encoded,
            "progress": self._progress,
            "validation": self._validation,
            "checkpoint": self._checkpoint,
            "checkpoint_damaged": self._checkpoint_damaged,
            "sample": self._sample,
            "adapter": self._adapter,
            "evaluation": self._evaluation,
        }

    def record(self, event: Event) -> None:
        """Write one event, waiting where a server is away; raises LeaseLost where the job is no longer ours, or Stopping."""
        if event["type"] in FREQUENT and time.monotonic() < self._frequent_at + INTERVAL:
            if self._held_back is not None and self._held_back["type"] != event["type"]:
                self.flush()
            self._held_back = event
            return
        self.flush()
        if event["type"] in ENDINGS:
            self.ending = event
        else:
            self._write(event)

    def flush(self) -> None:
        """Write what was held back."""
        held_back, self._held_back = self._held_back, None
        if held_back is not None:
            self._write(held_back)

    def _write(self, event: Event) -> None:
        if event["type"] in FREQUENT:
            self._frequent_at = time.monotonic()
        self._handlers.get(event["type"], self._commit)(event)

    def _started(self, event: Event) -> None:
        counts = {name: event[name] for name in ("trained_parameters", "total_parameters")}
        # What an earlier attempt did after its last checkpoint is done again.
        self._commit(event | {"attempt": self._job.attempt}, **counts, step=event["resumed_from"] or 0)

    def _encoded(self, event: Event) -> None:
        """Share what the trainer has encoded with the tenant's other jobs."""
        row = Encoding(tenant_id=self._job.tenant_id, key=self._staged.key, bytes=event["bytes"], sha256=event["sha256"])
        row.dataset_sha256 = self._job.plan.dataset.sha256
        row.object_key = key = encodings_object(row.key, self._lease.token)
        persist(self._lease, lambda: self._objects.put_file(key, self._spec_dir / event["path"]))
        self._commit(event, row)

    def _progress(self, event: Event) -> None:
        self._losses["train"] = event["train_loss"]
        rates = {name: event[name] for name in ("step", "samples_per_second", "seconds_remaining")}
        self._commit(event, **rates, losses=self._losses)

    def _validation(self, event: Event) -> None:
        self._losses["validation_base" if event["base"] else "validation"] = event["loss"]
        self._commit(event, losses=self._losses)

    def _checkpoint(self, event: Event) -> None:
        """Store a training state, and drop those that it makes superfluous, here and in the store."""
        step, folder = event["step"], self._spec_dir / event["path"]
        found = self._find(select(Checkpoint).where(Checkpoint.job_id == self._job.id, Checkpoint.step == step))
        row = found or Checkpoint(id=new_id("ck"), job_id=self._job.id, step=step)
        row.object_key = f"{self._prefix}checkpoints/{step_name(step)}.tar"
        row.bytes = persist(self._lease, lambda: put_checkpoint(self._objects, row.object_key, folder))
        self._commit(event | {"id": row.id, "bytes": row.bytes}, row)
        for other in newest_first(folder.parent):
            if (step_of(other) or 0) < step:
                shutil.rmtree(other)

    def _checkpoint_damaged(self, event: Event) -> None:
        """Forget a training state that cannot be gone on from, so that it is not taken for the newest again."""
        query = select(Checkpoint).where(Checkpoint.job_id == self._job.id, Checkpoint.step == event["step"])
        self._commit(event, without=self._find(query))

    def _sample(self, event: Event) -> None:
        step, path = event["step"], self._spec_dir / event["path"]
        found = self._find(select(Image).where(Image.job_id == self._job.id, Image.position == step))
        row = found or Image(id=new_id("img"), tenant_id=self._job.tenant_id, job_id=self._job.id, position=step)
        row.object_key, row.details = f"{self._prefix}samples/{path.name}", {"labels": event["labels"]}
        row.bytes = path.stat().st_size
        if path.suffix == ".png":
            with PillowImage.open(path) as picture:
                row.width, row.height = picture.size
        persist(self._lease, lambda: self._objects.put_file(row.object_key, path))
        self._commit(event | {"image": row.id}, row)

    def _adapter(self, event: Event) -> None:
        row = self._find(select(Adapter).where(Adapter.job_id == self._job.id))
        row = row or Adapter(id=new_id("ad"), tenant_id=self._job.tenant_id, job_id=self._job.id)
        row.base_model, row.object_key = self._job.base_model, f"adapters/{row.id}/{self._lease.token}.safetensors"
        row.bytes, row.sha256, row.class_names = event["bytes"], event["sha256"], event["class_names"]
        row.deleted_at = None
        key = row.object_key
        persist(self._lease, lambda: self._objects.put_file(key, self._spec_dir / event["path"]))
        self._commit(event | {"id": row.id}, row)

    def _evaluation(self, event: Event) -> None:
        dataset = event["reference"]["dataset"]
        persist(self._lease, lambda: put_references(self._objects, dataset, self._spec_dir))
        self._commit(event)

    def _find(self, query: Select[Row]) -> Row | None:
        """The row that an earlier attempt made for the same thing: it keeps its id and gets the new object."""

        def find() -> Row | None:
            with self._sessions() as session:
                return session.scalar(query)

        return persist(self._lease, find)

    def _commit(
        self,
        event: Event,
        row: Checkpoint | Image | Adapter | Encoding | None = None,
        without: Checkpoint | None = None,
        **columns: Any,
    ) -> None:
        """The event, a row that came with it, or went, and columns of the job in one transaction, or LeaseLost and nothing."""
        data = {name: value for name, value in event.items() if name not in {"type", "time", "path"}}
        event_id = new_id("evt")

        def commit() -> list[str]:
            with self._sessions.begin() as session:
                self._lease.write(session, **columns)
                superfluous = self._keep(session, row) if row is not None else []
                if without is not None:
                    session.execute(delete(Checkpoint).where(Checkpoint.id == without.id))
                    superfluous.append(without.object_key)
                events.append(session, self._job.id, event["type"], data, event_id)
            return superfluous

        for key in persist(self._lease, commit):
            self._forget(key)

    def _keep(self, session: Session, row: Checkpoint | Image | Adapter | Encoding) -> list[str]:
        """Write the row; the keys of the objects that are not needed afterwards, to be deleted after the commit."""
        if isinstance(row, Encoding):
            return encodings.keep(session, row, instead_of=self._staged.object_key)
        session.merge(row)
        return self._superfluous(session) if isinstance(row, Checkpoint) else []

    def _superfluous(self, session: Session) -> list[str]:
        """Delete the rows of all but the newest checkpoints; the keys of their objects."""
        session.flush()
        newest = select(Checkpoint.id).where(Checkpoint.job_id == self._job.id).order_by(Checkpoint.step.desc())
        kept = newest.limit(get_settings().keep_checkpoints).scalar_subquery()
        others = delete(Checkpoint).where(Checkpoint.job_id == self._job.id, Checkpoint.id.not_in(kept))
        return list(session.scalars(others.returning(Checkpoint.object_key)))

    def _forget(self, key: str) -> None:
        try:
            self._objects.delete(key)
        except StorageError as error:  # the next collection of garbage finds it
            logger.warning("A superfluous file stays for now: %s", error)
