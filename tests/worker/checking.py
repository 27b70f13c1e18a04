"""Checks uploads as a worker does, without a database."""

from pathlib import Path

from jobstore.kit.settings import Settings
from tests.worker.pictures import zip_of
from worker.datasets.check import CheckedDataset, examine
from worker.kit.image_pool import ImagePool


class Checker:
    def __init__(self, folder: Path, settings: Settings, pool: ImagePool) -> None:
        self.folder, self.settings, self.pool = folder, settings, pool

    def __call__(self, upload: dict[str, bytes] | bytes, format: str | None = None) -> CheckedDataset:
        """An archive of files, or an upload as it is."""
        folder = self.folder / f"check-{len(list(self.folder.iterdir()))}"
        folder.mkdir()
        path = folder / "upload"
        if isinstance(upload, bytes):
            path.write_bytes(upload)
        else:
            zip_of(path, upload)
        return examine(path, folder, self.settings, lambda: None, self.pool, format)


def codes(checked: CheckedDataset) -> dict[str, str]:
    assert all(r["message"] for r in checked.report["refused"])
    return {r["file"]: r["code"] for r in checked.report["refused"]}


def warnings(checked: CheckedDataset) -> dict[str, str]:
    """Messages by code; those of one code are joined."""
    found: dict[str, str] = {}
    for warning in checked.report["warnings"]:
        found[warning["code"]] = f"{found.get(warning['code'], '')} {warning['message']}".strip()
    return found
