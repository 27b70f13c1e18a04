"""Checking an upload: unpack it, decode every image, and turn what can be used into the content that jobs train on."""

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from difffit_core.data.contents import fields_of_all
from difffit_core.errors import DatasetError
from difffit_core.spec.job import content_sha256
from difffit_core.tasks.config import Frame, Holding
from jobstore.kit.settings import Settings, get_settings
from jobstore.kit.tables import Dataset
from jobstore.uploads.service import upload_keys
from worker.datasets.archives.archives import Refusal, refusal, unpack
from worker.datasets.content import CONTENT, write_content, write_preview
from worker.datasets.examples import Example, make_examples, without_duplicates
from worker.datasets.layouts.layout import leftover
from worker.datasets.layouts.registry import compare_with_published, read_layout
from worker.datasets.report import make_report
from worker.kit.image_pool import ImagePool
from worker.kit.lease import Lease
from worker.kit.leased_work import finish, work_on
from worker.kit.outages import may_pass, persist
from worker.kit.runtime import objects, scratch_folder

logger = logging.getLogger(__name__)

# The PNG of a photograph has several times the bytes of its JPEG; a dataset of many small ones should still be taken.
PLAIN_RATIO = 2
LEFT_BEHIND = {"system_file", "hidden"}


@dataclass
class CheckedDataset:
    """What the check found. `examples` is empty where nothing can be used."""

    examples: list[Example]
    report: dict[str, Any]
    frame: Frame | None = None  # what its texts are written for

    @property
    def sha256(self) -> str:
        return content_sha256((e.annotation.label, e.sha256, e.annotation.split) for e in self.examples)

    @property
    def holds(self) -> list[Holding]:
        return fields_of_all(example.fields for example in self.examples)


def check_dataset(dataset_id: str) -> None:
    """Claim the dataset and bring it to `ready` or `failed`; does nothing where another worker has it."""
    work_on(Dataset, dataset_id, _bring_to_end)


def _bring_to_end(dataset: Dataset, lease: Lease) -> None:
    with scratch_folder(dataset.id, lease.token) as folder:
        try:
            _check(dataset, lease, folder, get_settings())
        except OSError as error:
            if not may_pass(error):
                raise
            _out_of_space(dataset, lease, get_settings())


def _check(dataset: Dataset, lease: Lease, folder: Path, settings: Settings) -> None:
    upload = folder / "upload"
    persist(lease, lambda: objects().get_joined(upload_keys(dataset), upload), fetches=True)
    checked: CheckedDataset | None = None
    try:
        with ImagePool(folder, settings.max_image_pixels) as pool:
            checked = examine(upload, folder, settings, lease.check, pool, dataset.format, dataset.upload_name or dataset.name)
            if not checked.examples:
                raise DatasetError(_nothing(checked.report["refused"]), code="no_usable_examples", param="file")
            content, preview = folder / CONTENT, folder / "preview.png"
            has_preview = write_preview(checked.examples, preview)
            write_content(checked.examples, content)
    except DatasetError as error:
        finish(lease, "failed", error=error.reason(), report=checked and checked.report)
        return
    lease.check()
    prefix = f"datasets/{dataset.id}/{lease.token}"  # of this attempt only
    keys = {"content_key": f"{prefix}/{CONTENT}"} | ({"preview_key": f"{prefix}/preview.png"} if has_preview else {})
    persist(lease, lambda: objects().put_file(keys["content_key"], content))
    if has_preview:
        persist(lease, lambda: objects().put_file(keys["preview_key"], preview))
    found: dict[str, Any] = {"sha256": checked.sha256, "holds": checked.holds, "frame": checked.frame, "report": checked.report}
    found |= {"classes": checked.report["classes"]} | keys
    stored_bytes = content.stat().st_size + (preview.stat().st_size if has_preview else 0)
    finish(lease, "ready", content_bytes=stored_bytes, **found)


def _nothing(refused: list[Refusal]) -> str:
    """That nothing can be used, with the commonest reason and where it is met first; what systems left behind is none."""
    said = "The upload holds nothing that can be trained on"
    reasons = [refusal for refusal in refused if refusal["code"] not in LEFT_BEHIND]
    if not reasons:
        return f"{said}: it has no file that is not hidden or a system's."
    ((code, count),) = Counter(refusal["code"] for refusal in reasons).most_common(1)
    ((message, _),) = Counter(refusal["message"] for refusal in reasons if refusal["code"] == code).most_common(1)
    first = next(refusal["file"] for refusal in reasons if refusal["message"] == message)
    return f"{said}. {count} of {len(refused)} were refused as {first[:100]!r} was: {message} The report says why for each."


def _out_of_space(dataset: Dataset, lease: Lease, settings: Settings) -> None:
    """Give the attempt up, for another may find more space; the last one fails."""
    message = f"The worker's disk was full in attempt {dataset.attempt} of {settings.max_attempts}"
    if dataset.attempt < settings.max_attempts:
        logger.warning("%s at dataset %s", message, dataset.id)
        lease.expire()
        return
    advice = "Upload a smaller dataset, or ask the operator for a larger disk and upload this one again."
    finish(lease, "failed", error={"code": "disk_full", "message": f"{message}. {advice}", "param": "file"})


def examine(
    upload: Path,
    folder: Path,
    settings: Settings,
    keep_alive: Callable[[], None],
    pool: ImagePool,
    format: str | None = None,
    name: str = "upload",
) -> CheckedDataset:
    """Unpack, decode and annotate an upload that its sender calls `name`.

    Raises DatasetError where it cannot be used as a whole, or is not of `format`.
    """
    unpacked = folder / "unpacked"
    unpacked.mkdir()
    files, refused = unpack(upload, unpacked, settings, keep_alive, name)
    refused += [refusal(file.name, *reason) for file in files if (reason := leftover(file.name)) is not None]
    files = sorted((file for file in files if leftover(file.name) is None), key=lambda file: file.name)
    layout = read_layout(files, format)
    total, candidates = len(files) + len(refused), [file for file in files if file.name not in layout.lists]
    examples, unusable = make_examples(candidates, layout, folder, pool, PLAIN_RATIO * settings.max_unpacked_bytes, keep_alive)
    compare_with_published(layout, (example.annotation for example in examples))
    examples, duplicates = without_duplicates(examples)
    report = make_report(total, layout, examples, refused + unusable + layout.bad_rows, duplicates)
    return CheckedDataset(examples, report, layout.frame)
