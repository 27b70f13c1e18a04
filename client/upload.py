"""The body of an upload: folders become an archive, and parts are read from disk while they are sent."""

import secrets
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from client.errors import ConfigError

CHUNK = 1 << 18  # bytes read and sent at once; memory use does not depend on the size of the upload
# Of which one is sent, and nothing beside it; the last ones the server refuses by name.
WHOLE_DATASETS: tuple[str, ...] = (
    ".zip",
    ".tar",
    ".tar.gz",
    ".tgz",
    ".tar.bz2",
    ".tbz2",
    ".tar.xz",
    ".txz",
    ".tar.zst",
    ".tzst",
)
WHOLE_DATASETS += (".json", ".jsonl", ".json.gz", ".jsonl.gz", ".7z", ".rar")
LISTS = {"metadata.jsonl"}  # but for those beside loose images

ProgressCallback = Callable[[int, int], None]  # (bytes so far, bytes in all)


@dataclass(frozen=True)
class Upload:
    """What is sent for what the user named."""

    files: list[Path]
    left_out: int = 0  # hidden files of a folder


@contextmanager
def prepare_upload(paths: Sequence[Path]) -> Iterator[Upload]:
    """One archive, one file of texts or loose images as they are, or one folder as an archive for as long as it is needed."""
    for path in paths:
        if not path.exists():
            raise ConfigError(f"There is no file or folder {path}.", param="path")
    folders = [path for path in paths if path.is_dir()]
    whole = [path for path in paths if is_whole_dataset(path)]
    if len(paths) > 1 and (folders or whole):
        raise ConfigError("Give one folder, or one archive, or one file of texts, or any number of images.", param="path")
    if not folders:
        yield Upload(list(paths))
        return
    with tempfile.TemporaryDirectory(prefix="difffit-") as scratch:
        archive = Path(scratch) / f"{folders[0].resolve().name}.zip"
        yield Upload([archive], left_out=pack_folder(folders[0], archive))


def is_whole_dataset(path: Path) -> bool:
    return path.name.lower().endswith(WHOLE_DATASETS) and path.name not in LISTS


def pack_folder(folder: Path, archive: Path) -> int:
    """Write every visible file under `folder` to a zip, not compressed (images are already); return how many were hidden."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    files = [path for path in found if not _hidden(path.relative_to(folder))]
    if not files:
        raise ConfigError(f"The folder {folder} holds no files.", param="path")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED, strict_timestamps=False) as target:
        for path in files:
            target.write(path, path.relative_to(folder))
    return len(found) - len(files)


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


class MultipartBody:
    """A multipart/form-data body of known length that is read from disk as it is iterated, once for every sending."""

    def __init__(self, fields: dict[str, str], files: Sequence[Path], progress: ProgressCallback | None = None) -> None:
        self._boundary = secrets.token_hex(16)
        self._progress = progress or (lambda sent, total: None)
        self._fields = b"".join(self._header(name) + value.encode() + b"\r\n" for name, value in fields.items())
        self._files = [(self._header("file", path.name), path, path.stat().st_size) for path in files]
        self._end = f"--{self._boundary}--\r\n".encode()
        self.length = len(self._fields) + sum(len(head) + size + 2 for head, _, size in self._files) + len(self._end)

    @property
    def headers(self) -> dict[str, str]:
        return {"content-type": f"multipart/form-data; boundary={self._boundary}", "content-length": str(self.length)}

    def __iter__(self) -> Iterator[bytes]:
        sent = 0
        for chunk in self._chunks():
            yield chunk
            sent += len(chunk)
            self._progress(sent, self.length)

    def _chunks(self) -> Iterator[bytes]:
        yield self._fields
        for head, path, size in self._files:
            yield head
            yield from read_exactly(path, size)
            yield b"\r\n"
        yield self._end

    def _header(self, name: str, file_name: str | None = None) -> bytes:
        lines = f'--{self._boundary}\r\ncontent-disposition: form-data; name="{name}"'
        if file_name is not None:
            safe = file_name.replace("\\", "%5C").replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
            lines += f'; filename="{safe}"\r\ncontent-type: application/octet-stream'
        return f"{lines}\r\n\r\n".encode()


def read_exactly(path: Path, size: int) -> Iterator[bytes]:
    """The file's bytes in chunks; a file that changed its size since it was measured would corrupt the body."""
    left = size
    with path.open("rb") as file:
        while chunk := file.read(min(CHUNK, left)):
            left -= len(chunk)
            yield chunk
    if left:
        raise ConfigError(f"{path} became shorter while it was sent. Upload it again when nothing writes to it.", param="path")
