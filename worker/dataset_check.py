"""Checking an upload: unpack it, decode every image, and turn what can be used into the content that jobs train on."""

import io
import json
import logging
import re
import tarfile
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from difffit_core.errors import DatasetError
from difffit_core.spec import content_sha256
from jobstore import leases
from jobstore.settings import Settings, get_settings
from jobstore.tables import Dataset
from jobstore.uploads import upload_keys
from worker import contact_sheet
from worker.archives import Refusal, UnpackedFile, refusal, unpack
from worker.image_pool import CheckedImage, ImagePool
from worker.layouts.layout import Caption, Layout, is_system_file
from worker.layouts.registry import compare_with_published, read_layout
from worker.lease import Lease, LeaseLost, Stopping
from worker.outages import persist
from worker.runtime import objects, scratch_folder, sessions

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Picture:
    """A usable image of a dataset."""

    file: UnpackedFile
    image: CheckedImage
    caption: Caption


@dataclass
class CheckedDataset:
    """What the check found. `pictures` is empty where nothing can be used."""

    pictures: list[Picture]
    report: dict[str, Any]

    @property
    def sha256(self) -> str:
        return content_sha256((p.caption.label, p.file.sha256, p.caption.split) for p in self.pictures)


def check_dataset(dataset_id: str) -> None:
    """Claim the dataset and bring it to `ready` or `failed`; does nothing where another worker has it."""
    settings = get_settings()
    with sessions().begin() as session:
        token = leases.claim(session, Dataset, dataset_id, settings.lease_seconds)
        dataset = session.get(Dataset, dataset_id)
    if token is None or dataset is None:
        return
    with Lease(sessions(), Dataset, dataset_id, token, settings) as lease, scratch_folder(dataset_id, token) as folder:
        try:
            _bring_to_end(dataset, lease, folder, settings)
        except LeaseLost:
            logger.warning("Lost the lease of dataset %s; another worker checks it", dataset_id)
        except Stopping:
            lease.expire()


def _bring_to_end(dataset: Dataset, lease: Lease, folder: Path, settings: Settings) -> None:
    upload = folder / "upload"
    persist(lease, lambda: objects().get_joined(upload_keys(dataset), upload))
    checked: CheckedDataset | None = None
    try:
        with ImagePool(settings.max_image_pixels) as pool:
            checked = examine(upload, folder, settings, lease.check, pool, dataset.format)
            if not checked.pictures:
                message = "The archive holds no image that can be used; the report says why for each file."
                raise DatasetError(message, code="no_usable_images", param="file")
            content, preview = folder / "content.tar", folder / "preview.png"
            write_content(checked.pictures, content)
            write_preview(checked.pictures, folder, preview, pool)
    except DatasetError as error:
        reason = {"code": error.code, "message": error.message, "param": error.param}
        _finish(lease, "failed", error=reason, report=checked and checked.report)
        return
    lease.check()
    prefix = f"datasets/{dataset.id}/{lease.token}"  # of this attempt only
    keys = {"content_key": f"{prefix}/content.tar", "preview_key": f"{prefix}/preview.png"}
    persist(lease, lambda: objects().put_file(keys["content_key"], content))
    persist(lease, lambda: objects().put_file(keys["preview_key"], preview))
    found = {"sha256": checked.sha256, "classes": checked.report["classes"], "report": checked.report}
    _finish(lease, "ready", holds=["file", "label"], **keys, **found)


def _finish(lease: Lease, status: str, **values: Any) -> None:
    def finish() -> None:
        with sessions().begin() as session:
            lease.finish(session, status, **values)

    persist(lease, finish)


def examine(
    upload: Path,
    folder: Path,
    settings: Settings,
    keep_alive: Callable[[], None],
    pool: ImagePool,
    format: str | None = None,
) -> CheckedDataset:
    """Unpack, decode and label; raises DatasetError where the archive as a whole cannot be used, or is not of `format`."""
    unpacked = folder / "unpacked"
    unpacked.mkdir()
    files, refused = unpack(upload, unpacked, settings, keep_alive)
    refused += [refusal(f.name, "system_file", "A system file, not a picture.") for f in files if is_system_file(f.name)]
    files = sorted((file for file in files if not is_system_file(file.name)), key=lambda file: file.name)
    layout = read_layout(files, format)
    candidates = [file for file in files if file.name not in layout.lists]
    total = len(candidates) + len(refused)
    pictures = []
    for file, answer in zip(candidates, pool.check((file.path, None) for file in candidates), strict=True):
        keep_alive()
        if not isinstance(answer, CheckedImage):
            refused.append(refusal(file.name, answer.code, answer.message))
        elif file.name in layout.captions:
            pictures.append(Picture(file, answer, layout.captions[file.name]))
        else:
            refused.append(layout.without_caption[file.name])
    compare_with_published(layout, (picture.caption for picture in pictures))
    pictures, duplicates = _without_duplicates(pictures)
    report = _report(total, layout, pictures, refused + layout.bad_rows, duplicates)
    return CheckedDataset(pictures, report)


def _without_duplicates(pictures: list[Picture]) -> tuple[list[Picture], list[dict[str, str]]]:
    """Each content once per class, and the files that were left out for it."""
    first: dict[tuple[str, str], Picture] = {}
    duplicates = []
    for picture in pictures:
        kept = first.setdefault((picture.caption.label, picture.file.sha256), picture)
        if kept is not picture:
            duplicates.append({"file": picture.file.name, "same_as": kept.file.name})
    return list(first.values()), duplicates


def _report(
    files: int, layout: Layout, pictures: list[Picture], refused: list[Refusal], duplicates: list[dict[str, str]]
) -> dict[str, Any]:
    sizes = sorted(((p.image.width, p.image.height) for p in pictures), key=lambda size: size[0] * size[1])
    return {
        "files": files,
        "kept": len(pictures),
        "layout": layout.kind,
        "refused": refused,
        "duplicates": duplicates,
        "label_conflicts": _label_conflicts(pictures),
        "warnings": layout.warnings,
        "classes": dict(sorted(Counter(p.caption.label for p in pictures).items())),
        "splits": dict(sorted(Counter(p.caption.split for p in pictures if p.caption.split).items())),
        "sizes": {"smallest": sizes[0], "median": sizes[len(sizes) // 2], "largest": sizes[-1]} if sizes else None,
    }


def _label_conflicts(pictures: list[Picture]) -> list[dict[str, list[str]]]:
    """The same bytes under several labels: all are kept, somebody should look."""
    by_content: dict[str, list[Picture]] = defaultdict(list)
    for picture in pictures:
        by_content[picture.file.sha256].append(picture)
    return [
        {"files": [p.file.name for p in same], "labels": [p.caption.label for p in same]}
        for same in by_content.values()
        if len(same) > 1
    ]


def write_content(pictures: list[Picture], target: Path) -> None:
    """The staged dataset as one tar: index.jsonl and the images with the bytes that the user sent."""
    rows: list[dict[str, Any]] = []
    for number, picture in enumerate(pictures):
        row: dict[str, Any] = {"file": f"{number:06d}{_suffix(picture)}", "label": picture.caption.label}
        row |= {
            "source": picture.file.name,
            "sha256": picture.file.sha256,
            "width": picture.image.width,
            "height": picture.image.height,
        }
        if picture.caption.text is not None:
            row["text"] = picture.caption.text
        if picture.caption.split:
            row["split"] = picture.caption.split
        rows.append(row)
    index = "".join(json.dumps(row) + "\n" for row in rows).encode()
    with tarfile.open(target, "w") as tar:
        member = tarfile.TarInfo("index.jsonl")
        member.size = len(index)
        tar.addfile(member, io.BytesIO(index))
        for picture, row in zip(pictures, rows, strict=True):
            member = tarfile.TarInfo(row["file"])
            member.size = picture.file.path.stat().st_size
            with picture.file.path.open("rb") as data:
                tar.addfile(member, data)


def _suffix(picture: Picture) -> str:
    suffix = PurePosixPath(picture.file.name).suffix.lower()
    return suffix if re.fullmatch(r"\.[a-z0-9]{1,5}", suffix) else f".{picture.image.format.lower()}"


def write_preview(pictures: list[Picture], folder: Path, target: Path, pool: ImagePool) -> None:
    """A contact sheet of the first pictures of the first classes; thumbnails are made where images are decoded."""
    by_class: dict[str, list[Picture]] = defaultdict(list)
    for picture in pictures:
        by_class[picture.caption.label].append(picture)
    chosen = {name: by_class[name][: contact_sheet.PICTURES] for name in sorted(by_class)[: contact_sheet.CLASSES]}
    thumbnails = {p: folder / f"thumbnail-{i}.png" for i, p in enumerate(p for members in chosen.values() for p in members)}
    answers = pool.check((picture.file.path, thumbnail) for picture, thumbnail in thumbnails.items())
    for answer, picture in zip(answers, thumbnails, strict=True):
        if not isinstance(answer, CheckedImage):
            raise DatasetError(f"{picture.file.name}: {answer.message}", code=answer.code, param="file")
    contact_sheet.contact_sheet({name: [thumbnails[p] for p in members] for name, members in chosen.items()}, target)
