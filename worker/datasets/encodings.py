"""A dataset is encoded once: a job finds in its folder what an earlier one has encoded, and leaves what it encoded itself."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.orm import Session, sessionmaker

from difffit_core.data.encodings import FILE, encodings_key
from difffit_core.spec.job import read_spec
from jobstore.datasets import encodings
from jobstore.kit.errors import StorageError
from jobstore.kit.objects import ObjectStore
from jobstore.kit.tables import Job


@dataclass(frozen=True)
class StagedEncodings:
    """The key of a job's encodings, and the object that a row named for it, where there was one."""

    key: str
    object_key: str | None = None
    warning: str | None = None  # why that object does not lie in the job's folder


def stage_encodings(sessions: sessionmaker[Session], job: Job, spec_dir: Path, objects: ObjectStore) -> StagedEncodings:
    """Put what an earlier job has encoded where the trainer of `spec.json` looks for it; a damaged object is left out.

    It can be done again where it broke off. Raises SpecError or ModelError where the plan or the base cannot be used.
    """
    key = encodings_key(read_spec(spec_dir))
    with sessions.begin() as session:
        row = encodings.use(session, job.tenant_id, key)
    if row is None:
        return StagedEncodings(key)
    problem = _fetch(objects, row.object_key, row.sha256, spec_dir / FILE)
    return StagedEncodings(key, row.object_key, problem and f"The dataset is encoded anew: what was kept of it {problem}.")


def _fetch(objects: ObjectStore, key: str, sha256: str, path: Path) -> str | None:
    """What is wrong with the object, or nothing, and then it lies at `path`."""
    try:
        objects.get_to_file(key, path)
    except StorageError as error:
        if error.code != "object_missing":
            raise
        return "is gone"
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() == sha256:
            return None
    path.unlink()
    return "is damaged"


def encodings_object(key: str, token: object) -> str:
    """Where the holder of a lease stores encodings: no two attempts write to the same place."""
    return f"encodings/{key}/{token}.safetensors"
