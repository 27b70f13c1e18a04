"""A dataset upload as one stream of bytes: an archive or JSON as it was sent, or loose files packed into a tar on the way."""

import tarfile
from collections import deque
from collections.abc import AsyncIterator, Iterator
from pathlib import PurePosixPath
from tempfile import SpooledTemporaryFile

from anyio import CapacityLimiter, to_thread
from fastapi import Request

from api.datasets.multipart import MultipartReader, PartBegins, PartEnds
from api.kit.errors import TooLargeError
from difffit_core.errors import DatasetError
from jobstore.datasets.formats import FORMATS
from jobstore.kit.plain_text import is_plain
from jobstore.tenants.quotas import storage_full
from jobstore.uploads.service import OTHER_ARCHIVES, WHOLE_DATASETS, unsupported_archive

LISTS = {"metadata.jsonl"}  # what ends as texts do, but lies beside loose images
KNOWN_FIELDS = ("file", "format", "label", "name")
MAX_FIELD_BYTES = 1024  # of a name or a label; both are at most 200 characters
MAX_TEXT = 200  # characters
ONCE = ("name", "format")
MAX_LOOSE = 10_000  # files, and labels: each part costs a tenth of a millisecond, while an archive of many costs nothing here
MAX_OVERHEAD = 8 * 1024**2  # bytes of parts' heads and of fields: so many parts of 400
SPOOL_BYTES = 1024**2  # a loose image above this waits in a temporary file: a tar wants its size before its bytes


class DatasetUpload:
    """Reads one request. `content` is what to store; after it, `name` is what to call the dataset, `format` its layout.

    Raises DatasetError, TooLargeError, and QuotaError where the tenant may not store so much.
    """

    def __init__(self, request: Request, max_bytes: int, free_bytes: int, max_files: int, lane: CapacityLimiter) -> None:
        """`free_bytes` is what the tenant may still store. Bodies are taken apart in threads, so many as the `lane` is wide."""
        self._request = request
        self._reader = MultipartReader(request.headers)
        self._lane = lane
        self._free_bytes = free_bytes
        self._max_bytes = max_bytes
        self._max_parts = min(max_files, MAX_LOOSE)
        self._bytes = 0  # of files
        self._received = 0
        self._fields = 0
        self._part, self._field, self._member = PartBegins("", None), bytearray(), ""  # that which arrives just now
        self._archive: str | None = None  # its file name
        self._loose: set[str] = set()  # the tar's member names
        self._alike: dict[str, int] = {}  # of a member's name, the last number that went to a file of that name
        self._labels: deque[str] = deque()  # those that no file has taken yet
        self._label: str | None = None  # that of the file before
        self._labels_in_advance = False  # several labels came before their files: then each file needs its own
        self._name: str | None = None
        self.format: str | None = None  # none: to be recognised

    @property
    def name(self) -> str:
        if self._name or not self._archive:
            return self._name or "images"
        suffix = next(suffix for suffix in WHOLE_DATASETS if self._archive.lower().endswith(suffix))
        return self._archive[: -len(suffix)][:MAX_TEXT] or "dataset"

    @property
    def file_name(self) -> str | None:
        """What the user calls the one file that is the dataset; nothing where there are loose ones."""
        return self._archive and self._archive[-MAX_TEXT:]

    async def content(self) -> AsyncIterator[bytes]:
        with SpooledTemporaryFile(SPOOL_BYTES) as spool:
            async for chunk in self._request.stream():
                blocks = self._take(chunk, spool)
                while block := await to_thread.run_sync(_next_block, blocks, limiter=self._lane):
                    yield block
        self._reader.end()
        self._check_end()
        if self._loose:
            yield bytes(2 * tarfile.BLOCKSIZE)  # the end of a tar

    def _take(self, chunk: bytes, spool: SpooledTemporaryFile[bytes]) -> Iterator[bytes]:
        """What is to be stored of the next bytes of the body."""
        self._received += len(chunk)
        for event in self._reader.feed(chunk):
            match event:
                case PartBegins():
                    self._part, self._member = event, self._begin(event)
                    self._field.clear()
                case bytes() if self._part.filename is None:
                    self._field += event
                    if len(self._field) > MAX_FIELD_BYTES:
                        raise _invalid(f"The field `{self._part.name}` is too long.", self._part.name)
                case bytes():
                    self._count(len(event))
                    if self._member:
                        spool.write(event)
                    else:
                        yield event
                case PartEnds() if self._part.filename is None:
                    self._take_field(self._part.name, self._field.decode("utf-8", "replace"))
                case PartEnds() if self._member:
                    yield from _tar_member(self._member, spool)
        if self._received - self._bytes > MAX_OVERHEAD:
            raise TooLargeError(
                f"The form has more than {MAX_OVERHEAD} bytes besides its files. Send the images as an archive.",
                code="upload_too_large",
            )

    def _begin(self, part: PartBegins) -> str:
        """Check a part that begins; the tar member's name of a loose image, or nothing."""
        if part.name not in KNOWN_FIELDS or (part.name == "file") != (part.filename is not None):
            raise DatasetError(
                f"The form field `{part.name}` is not known here. Send `file` as a file, `label`, `name` and `format` as text.",
                code="unknown_field",
                param=part.name[:MAX_TEXT],
            )
        if part.filename is None:
            self._fields += 1
            if self._fields > self._max_parts + len(ONCE):
                raise TooLargeError(f"More than {self._max_parts} labels.", code="too_many_files", param="label")
            return ""
        filename = "".join(filter(is_plain, part.filename.replace("\\", "/").rpartition("/")[2]))
        if not filename or filename in {".", ".."}:
            raise DatasetError("The part `file` has no file name. Choose a file.", code="missing_file", param="file")
        if filename.lower().endswith(OTHER_ARCHIVES):
            raise unsupported_archive(filename)
        whole = filename.lower().endswith(WHOLE_DATASETS) and filename not in LISTS
        if self._archive or (self._loose and whole):
            raise _invalid("Send one archive, or one file of texts, or loose images, and nothing beside it.", "file")
        if whole:
            if self._labels:
                raise _invalid("An archive takes no `label`: its folders or its metadata.jsonl name the classes.", "label")
            self._archive = filename
            return ""
        if len(self._loose) == self._max_parts:
            raise TooLargeError(
                f"More than {self._max_parts} files. Send them as one archive.", code="too_many_files", param="file"
            )
        label = self._next_label()
        member = self._free_name(f"{label}/{filename}" if label else filename)
        self._loose.add(member)
        return member

    def _next_label(self) -> str | None:
        """The next label; where there is none, the last one goes on, so that one label may serve several files."""
        if self._labels:
            self._label = self._labels.popleft()
        elif self._labels_in_advance:
            raise _invalid("There are fewer labels than files. Send one label for all files, or one for each.", "label")
        return self._label

    def _free_name(self, member: str) -> str:
        """Two files of one name in one class are both kept: cat/a.png, cat/a-2.png."""
        path, count, free = PurePosixPath(member), self._alike.get(member, 1), member
        while free in self._loose:
            count += 1
            free = str(path.with_stem(f"{path.stem}-{count}"))
        self._alike[member] = count
        return free

    def _count(self, size: int) -> None:
        self._bytes += size
        if self._bytes > self._max_bytes:
            raise TooLargeError(
                f"The upload is larger than {self._max_bytes} bytes. Split it, or ask the operator for a higher limit.",
                code="upload_too_large",
                param="file",
            )
        if self._bytes > self._free_bytes:
            raise storage_full(self._free_bytes)

    def _take_field(self, name: str, text: str) -> None:
        text = text.strip()
        if not text or len(text) > MAX_TEXT or not is_plain(text):
            raise _invalid(f"`{name}` must be 1 to {MAX_TEXT} characters of plain text.", name)
        if name == "name":
            self._name = text
            return
        if name == "format":
            if text not in FORMATS:
                message = f"The format {text!r} is not known. Send one of {', '.join(FORMATS)}, or none."
                raise DatasetError(message, code="unknown_format", param="format")
            self.format = text
            return
        if "/" in text or "\\" in text or text in {".", ".."}:
            raise _invalid(f"The label {text!r} cannot name a class: it must have no slash and not be only dots.", "label")
        if self._loose and self._label is None:
            raise _invalid("There are files before the first label. Send `label` before them, or none at all.", "label")
        self._labels.append(text)
        self._labels_in_advance |= len(self._labels) > 1

    def _check_end(self) -> None:
        if not self._archive and not self._loose:
            raise DatasetError("No file was sent. Put it into the form field `file`.", code="missing_file", param="file")
        if self.format and self._label is not None:
            raise _invalid("Images with labels have no `format`: their labels name the classes. Send an archive.", "format")
        if self._labels:
            raise _invalid("There are more labels than files. Send each label before its file.", "label")


def _invalid(message: str, param: str) -> DatasetError:
    return DatasetError(message, code="invalid_value", param=param)


def _next_block(blocks: Iterator[bytes]) -> bytes:
    """As many of the blocks as are worth a turn of the thread; nothing behind the last."""
    some, size = list[bytes](), 0
    for block in blocks:
        some.append(block)
        size += len(block)
        if size >= SPOOL_BYTES:
            break
    return b"".join(some)


def _tar_member(name: str, content: SpooledTemporaryFile[bytes]) -> Iterator[bytes]:
    """Header, content and padding of one file in a tar; empties `content` for the next."""
    header = tarfile.TarInfo(name)
    header.size = content.tell()
    yield header.tobuf(tarfile.PAX_FORMAT)
    content.seek(0)
    while chunk := content.read(SPOOL_BYTES):
        yield chunk
    yield bytes(-header.size % tarfile.BLOCKSIZE)
    content.seek(0)
    content.truncate()
