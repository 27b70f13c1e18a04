"""Moving a job's files between the object store and the trainer's folder: dataset and checkpoints in, checkpoints out."""

import json
import logging
import shutil
import tarfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from difffit_core.errors import AdapterError, DatasetError, DiffFitError
from difffit_core.spec.catalog import get_base_model, load_catalog
from difffit_core.training.checkpoints import check_whole, step_name
from jobstore.kit.errors import StorageError
from jobstore.kit.objects import ObjectStore, references_prefix
from jobstore.kit.settings import Settings
from jobstore.kit.tables import Adapter, Checkpoint, Dataset, Job, JobEvent
from worker.datasets.content import CONTENT, make_plain
from worker.kit.child import Event

logger = logging.getLogger(__name__)

# Where the trainer looks for them; see difffit_core.training.initial_values, .evaluation.training and .evaluation.references
INITIAL_VALUES, EVALUATED, REFERENCES = "init.safetensors", "evaluated.json", "references"


def stage(sessions: sessionmaker[Session], job: Job, spec_dir: Path, objects: ObjectStore, settings: Settings) -> list[Event]:
    """Fill the trainer's folder: spec.json, dataset/, and the newest whole checkpoint of an earlier attempt or initial values.

    Returns what is to be told of newer checkpoints that are not whole. It can be done again where it broke off. Raises
    ModelError, DatasetError or AdapterError where this worker lacks the base model, or the dataset or the initial adapter has
    gone, or is damaged.
    """
    with sessions() as session:
        dataset = session.get(Dataset, job.dataset_id)
        newest_first = select(Checkpoint).where(Checkpoint.job_id == job.id).order_by(Checkpoint.step.desc())
        checkpoints = session.scalars(newest_first).all()
        initial = session.get(Adapter, job.init_adapter_id) if job.init_adapter_id is not None else None
    if dataset is None or dataset.content_key is None:
        raise DatasetError("The job's dataset is no longer there.", code="dataset_missing", param="dataset")
    base = get_base_model(load_catalog(settings.models, settings.models_dir), job.base_model)
    # The API may run on another machine, where the model lies elsewhere.
    spec = job.training_spec | {"base_model_path": str(base.path)}
    spec |= {"feature_weights": settings.feature_weights.model_dump()}
    spec |= {"captioner_path": settings.captioner and str(settings.captioner)}
    (spec_dir / "spec.json").write_text(json.dumps(spec))
    fetch_content(objects, dataset.content_key, spec_dir / "dataset", settings)
    resumed_from, told = fetch_checkpoint(objects, checkpoints, spec_dir / "checkpoints")
    if resumed_from == 0 and initial is not None:
        if initial.deleted_at is not None:
            raise AdapterError("The adapter to begin with is deleted.", code="adapter_missing", param="init_adapter")
        objects.get_to_file(initial.object_key, spec_dir / INITIAL_VALUES)
    if spec["hyperparameters"].get("evaluate_every") is not None:
        (spec_dir / EVALUATED).write_text(json.dumps(_evaluated(sessions, job.id, resumed_from)))
        fetch_references(objects, spec["dataset"]["sha256"], spec_dir)
    return told


def fetch_checkpoint(objects: ObjectStore, newest_first: Iterable[Checkpoint], parent: Path) -> tuple[int, list[Event]]:
    """Put the newest that is whole into a folder of `parent`; its step, 0 for none, and an event for each that is not.

    Raises StorageError where the store is away.
    """
    parent.mkdir(exist_ok=True)
    told: list[Event] = []
    for checkpoint in newest_first:
        folder = parent / step_name(checkpoint.step)
        try:
            fetch_tar(objects, checkpoint.object_key, folder)
            return check_whole(folder), told
        except DiffFitError as error:
            if isinstance(error, StorageError) and error.code != "object_missing":
                raise
            shutil.rmtree(folder, ignore_errors=True)
            message = (
                f"The checkpoint of step {checkpoint.step} is lost, and training goes on from one before it: {error.message}"
            )
            logger.warning("Job %s: %s", checkpoint.job_id, message)
            told.append({"type": "checkpoint_damaged", "step": checkpoint.step, "message": message})
    return 0, told


def _evaluated(sessions: sessionmaker[Session], job_id: str, resumed_from: int) -> list[int]:
    """The steps up to there whose evaluations are among the job's events."""
    reported = select(JobEvent.data).where(JobEvent.job_id == job_id, JobEvent.type == "evaluation")
    with sessions() as session:
        return [data["step"] for data in session.scalars(reported) if data["step"] <= resumed_from]


def fetch_references(objects: ObjectStore, dataset_sha256: str, folder: Path) -> None:
    """Put the reference features that are kept of a dataset's content where an evaluation looks for them."""
    (folder / REFERENCES).mkdir(exist_ok=True)
    for file in objects.list(references_prefix(dataset_sha256)):
        objects.get_to_file(file.key, folder / REFERENCES / Path(file.key).name)


def put_references(objects: ObjectStore, dataset_sha256: str, folder: Path) -> None:
    """Keep those that an evaluation has made. Their names say what is in them, so one that is there is the same."""
    for path in sorted((folder / REFERENCES).glob("*.safetensors")):
        key = f"{references_prefix(dataset_sha256)}{path.name}"
        if not objects.exists(key):
            objects.put_file(key, path)


def fetch_content(objects: ObjectStore, key: str, folder: Path, settings: Settings) -> None:
    """The dataset of that key, with pictures that are PNGs of ours; earlier versions kept the files that users sent."""
    fetch_tar(objects, key, folder)
    if PurePosixPath(key).name != CONTENT:
        make_plain(folder, settings.max_image_pixels)


def fetch_tar(objects: ObjectStore, key: str, folder: Path) -> None:
    """Unpack an object; raises DatasetError (`object_damaged`) where it is not what was packed."""
    packed = folder.with_name(f"{folder.name}.tar")
    objects.get_to_file(key, packed)
    folder.mkdir(exist_ok=True)
    try:
        with tarfile.open(packed) as tar:
            for member in tar:
                _extract(tar, member, folder, key)
    except (tarfile.TarError, EOFError, UnicodeError, ValueError) as error:
        raise DatasetError(f"{key} is damaged: {error}.", code="object_damaged") from error
    finally:
        packed.unlink()


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path, key: str) -> None:
    """Write one plain file within `folder`. Ours hold nothing else; `extractall` is as strict from Python 3.11.4 on only."""
    target, content = folder / member.name, tar.extractfile(member) if member.isreg() else None
    if content is None or not target.resolve().is_relative_to(folder.resolve()):
        raise DatasetError(
            f"{member.name[:200]!r} in {key} is no plain file of a folder. The object is damaged.", code="object_damaged"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with content, target.open("wb") as file:
        shutil.copyfileobj(content, file)


def put_checkpoint(objects: ObjectStore, key: str, folder: Path) -> int:
    """Store a checkpoint folder as a tar; returns its size in bytes."""
    packed = folder.parent.with_name(f"{folder.name}.tar")  # not beside it, where checkpoints are looked for
    with tarfile.open(packed, "w") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name)
    size = packed.stat().st_size
    objects.put_file(key, packed)
    packed.unlink()
    return size
