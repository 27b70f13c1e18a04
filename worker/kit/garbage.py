"""Deletes files that no row names: what lost attempts stored, what a deletion could not remove, and uploads nobody recorded.

Files are stored before the row that names them is written, and rows are deleted before their files; so a file without a row is
at most too much, never too little, and after the grace period nobody will write its row any more. The same period tells what a
killed process has left half-stored from what is being stored.
"""

import logging
import re
import threading
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice

from sqlalchemy import String, any_, bindparam, or_, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session, sessionmaker

from jobstore.datasets import encodings
from jobstore.generations import expiry as generations
from jobstore.kit.objects import ObjectStore
from jobstore.kit.settings import Settings
from jobstore.kit.tables import Adapter, Checkpoint, Dataset, Encoding, Evaluation, Export, Generation, Image, Job, Upload

logger = logging.getLogger(__name__)

PREFIXES = (
    "datasets/",
    "jobs/",
    "adapters/",
    "encodings/",
    "images/",
    "conditions/",
    "evaluations/",
    "references/",
    "uploads/",
)  # of the keys that rows name; others are not ours to judge
BATCH = 1000  # keys in one query
PART = re.compile(r"uploads/(upl_[^/]+)/")
LOG = re.compile(r"jobs/(job_[^/]+)/logs/")
EVALUATION = re.compile(r"evaluations/(eval_[^/]+)/")
REFERENCE = re.compile(r"references/([^/]+)/")


def collect_forever(sessions: sessionmaker[Session], objects: ObjectStore, settings: Settings, stop: threading.Event) -> None:
    """Collect once in every grace period, until `stop` is set; a server that is away is logged and tried again."""
    while not stop.wait(settings.garbage_grace_seconds):
        try:
            forget(sessions, settings)
            collect(sessions, objects, settings.garbage_grace_seconds)
        except Exception:
            logger.exception("Garbage could not be collected; the next try follows in %s s", settings.garbage_grace_seconds)


def forget(sessions: sessionmaker[Session], settings: Settings) -> None:
    """Delete the rows of what has not been used, or has been kept, for as long as the settings say."""
    with sessions.begin() as session:
        encodings.forget_unused(session, settings.keep_encodings_days)
    forgotten = generations.BATCH
    while forgotten == generations.BATCH:
        with sessions.begin() as session:
            forgotten = generations.forget_old(session, settings.keep_pictures_days)


def collect(sessions: sessionmaker[Session], objects: ObjectStore, grace_seconds: float) -> int:
    """Delete what is older than the grace period and belongs to no row; returns how many files that were."""
    before = datetime.now(UTC) - timedelta(seconds=grace_seconds)
    old, deleted = _older_than(objects, before), sum(objects.delete_unfinished(prefix, before) for prefix in PREFIXES)
    while keys := list(islice(old, BATCH)):
        for key in unnamed(sessions, keys):
            objects.delete(key)
            deleted += 1
    if deleted:
        logger.info("Deleted %d files that no row names", deleted)
    return deleted


def _older_than(objects: ObjectStore, before: datetime) -> Iterator[str]:
    for prefix in PREFIXES:
        yield from (file.key for file in objects.list(prefix) if file.modified_at < before)


def unnamed(sessions: sessionmaker[Session], keys: Iterable[str]) -> list[str]:
    """Those of the keys that no row names. A job's log belongs to its row, and reference features to a dataset's content."""
    given = list(keys)
    wanted = any_(bindparam("keys", given, ARRAY(String)))
    logs = {key: found[1] for key in given if (found := LOG.match(key))}
    with sessions() as session:
        named: set[str | None] = set()
        for model in (Checkpoint, Image, Export, Encoding):
            named |= set(session.scalars(select(model.object_key).where(model.object_key == wanted)))
        kept = select(Adapter.object_key).where(Adapter.object_key == wanted, Adapter.deleted_at.is_(None))
        named |= set(session.scalars(kept))
        named |= set(session.scalars(select(Generation.condition_key).where(Generation.condition_key == wanted)))
        columns = (Dataset.upload_key, Dataset.content_key, Dataset.preview_key)
        datasets = select(*columns).where(Dataset.status != "deleted", or_(*(column == wanted for column in columns)))
        named |= {key for row in session.execute(datasets) for key in row}
        prefixes = {found[0] for key in given if (found := PART.match(key))}
        unfinished = session.scalars(select(Upload.id).where(Upload.id.in_([prefix.split("/")[1] for prefix in prefixes])))
        whole = select(Dataset.upload_key).where(Dataset.status != "deleted", Dataset.upload_key.in_(prefixes))
        kept_prefixes = {f"uploads/{upload_id}/" for upload_id in unfinished} | set(session.scalars(whole))
        named |= {key for key in given if (found := PART.match(key)) and found[0] in kept_prefixes}
        measured = {key: found[1] for key in given if (found := EVALUATION.match(key))}
        unended = Evaluation.id.in_(set(measured.values())), Evaluation.finished_at.is_(None)
        unended_ids = set(session.scalars(select(Evaluation.id).where(*unended)))
        named |= {key for key, evaluation_id in measured.items() if evaluation_id in unended_ids}
        contents = {key: found[1] for key in given if (found := REFERENCE.match(key))}
        present = Dataset.status != "deleted", Dataset.sha256.in_(set(contents.values()))
        kept_contents = set(session.scalars(select(Dataset.sha256).where(*present)))
        named |= {key for key, sha256 in contents.items() if sha256 in kept_contents}
        living = set(session.scalars(select(Job.id).where(Job.id.in_(set(logs.values())), Job.deleted_at.is_(None))))
    return [key for key in given if key not in named and logs.get(key) not in living]
