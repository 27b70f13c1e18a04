"""Archives from outside: what is refused entry by entry, and what fails the whole upload."""

import gzip
import io
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from difffit_core.errors import DatasetError
from jobstore.settings import Settings
from worker.archives import Refusal, UnpackedFile, unpack


def unpacked(archive: Path, settings: Settings) -> tuple[dict[str, bytes], dict[str, str]]:
    """(contents by name, refusal codes by name)."""
    files: list[UnpackedFile]
    refused: list[Refusal]
    into = archive.parent / "unpacked"
    into.mkdir()
    files, refused = unpack(archive, into, settings, lambda: None)
    assert sorted(into.iterdir()) == sorted(f.path for f in files)
    return {f.name: f.path.read_bytes() for f in files}, {r["file"]: r["code"] for r in refused}


def tar_member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, link, size
    return member


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_tar_entries_that_are_no_plain_files_are_refused_with_a_reason(tmp_path: Path, settings: Settings, mode: str) -> None:
    archive = tmp_path / "upload"
    with tarfile.open(archive, mode) as tar:  # type: ignore[call-overload]
        tar.addfile(tar_member("cats", tarfile.DIRTYPE))
        tar.addfile(tar_member("./cats/good.png", size=4), io.BytesIO(b"good"))
        tar.addfile(tar_member("../../climbs.png", size=4), io.BytesIO(b"evil"))
        tar.addfile(tar_member("cats/../../climbs.png", size=4), io.BytesIO(b"evil"))
        tar.addfile(tar_member("/etc/absolute.png", size=4), io.BytesIO(b"evil"))
        tar.addfile(tar_member("cats/soft.png", tarfile.SYMTYPE, "/etc/passwd"))
        tar.addfile(tar_member("cats/hard.png", tarfile.LNKTYPE, "cats/good.png"))
        tar.addfile(tar_member("cats/device", tarfile.CHRTYPE))
        tar.addfile(tar_member("cats/fifo", tarfile.FIFOTYPE))
        tar.addfile(tar_member("cats/good.png", size=5), io.BytesIO(b"again"))
        tar.addfile(tar_member("cats/bad\udcff.png", size=3), io.BytesIO(b"odd"))
    files, refused = unpacked(archive, settings)
    assert files == {"cats/good.png": b"good", "cats/bad?.png": b"odd"}
    assert refused == {
        "../../climbs.png": "path_outside_archive",
        "cats/../../climbs.png": "path_outside_archive",
        "/etc/absolute.png": "absolute_path",
        "cats/soft.png": "link",
        "cats/hard.png": "link",
        "cats/device": "device",
        "cats/fifo": "device",
        "cats/good.png": "duplicate_name",
    }


def test_zip_entries_that_are_no_plain_files_are_refused_with_a_reason(tmp_path: Path, settings: Settings) -> None:
    archive = tmp_path / "upload"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("cats\\good.png", b"good")
        packed.writestr("../climbs.png", b"evil")
        packed.writestr("/absolute.png", b"evil")
        packed.writestr("C:/windows.png", b"evil")
        for name, kind in (("cats/soft.png", stat.S_IFLNK), ("cats/device", stat.S_IFCHR)):
            info = zipfile.ZipInfo(name)
            info.external_attr = (kind | 0o644) << 16
            packed.writestr(info, b"/etc/passwd")
        packed.writestr("cats/damaged.png", b"the bytes that get changed")
    changed = archive.read_bytes().replace(b"the bytes that get changed", b"the bytes that got changed")
    archive.write_bytes(changed)
    files, refused = unpacked(archive, settings)
    assert files == {"cats/good.png": b"good"}
    assert refused == {
        "../climbs.png": "path_outside_archive",
        "/absolute.png": "absolute_path",
        "C:/windows.png": "absolute_path",
        "cats/soft.png": "link",
        "cats/device": "device",
        "cats/damaged.png": "damaged_entry",
    }


class OldName(zipfile.ZipInfo):
    """An entry whose name is in one of the encodings that tools use without a flag that says which."""

    encoding = "utf-8"

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:
        return self.filename.encode(self.encoding), 0


def test_names_in_utf8_without_the_flag_that_says_so_are_read(tmp_path: Path, settings: Settings) -> None:
    of_dos = OldName("Käse/2.png")
    of_dos.encoding = "cp437"
    archive = tmp_path / "upload"
    with zipfile.ZipFile(archive, "w") as packed:
        for name in (OldName("Äpfel/1.png"), of_dos, "猫/3.png"):
            packed.writestr(name, b"good")
    assert unpacked(archive, settings) == (dict.fromkeys(("Äpfel/1.png", "Käse/2.png", "猫/3.png"), b"good"), {})


def empty_tar() -> bytes:
    buffer = io.BytesIO()
    tarfile.open(fileobj=buffer, mode="w").close()
    return buffer.getvalue()


def empty_zip() -> bytes:
    buffer = io.BytesIO()
    zipfile.ZipFile(buffer, "w").close()
    return buffer.getvalue()


def small_tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(tar_member("cats/a.png", size=9000), io.BytesIO(os.urandom(9000)))
    return buffer.getvalue()


def small_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        packed.writestr("cats/a.png", os.urandom(9000))
    return buffer.getvalue()


def tar_with_a_name_of_a_gigabyte() -> bytes:
    return tar_member("././@LongLink", tarfile.GNUTYPE_LONGNAME, size=1024**3).tobuf() + bytes(10240)


def zip_bomb() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("cats/a.png", bytes(20 * 1024**2))
    return buffer.getvalue()


def zip_bomb_that_lies() -> bytes:
    """The directory declares a size of 100 bytes."""
    return zip_bomb().replace((20 * 1024**2).to_bytes(4, "little"), (100).to_bytes(4, "little"))


def tar_bomb() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.addfile(tar_member("cats/a.png", size=20 * 1024**2), io.BytesIO(bytes(20 * 1024**2)))
    return buffer.getvalue()


def tar_bomb_in_a_refused_entry() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.addfile(tar_member("../a.png", size=20 * 1024**2), io.BytesIO(bytes(20 * 1024**2)))
        tar.addfile(tar_member("cats/b.png", size=4), io.BytesIO(b"good"))
    return buffer.getvalue()


def sparse_tar_bomb() -> bytes:
    """A GNU sparse member: one block of data at the front of 100 MB of holes."""
    member = tar_member("cats/a.png", tarfile.GNUTYPE_SPARSE, size=512)
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    for position, number in ((386, 0), (398, 512), (483, 100 * 1024**2)):
        header[position : position + 12] = f"{number:011o}".encode() + b"\0"
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return bytes(header) + bytes(512) + bytes(1024)


UNUSABLE = {
    "nothing": (b"", "empty_archive"),
    "empty tar": (empty_tar(), "empty_archive"),
    "empty tar.gz": (gzip.compress(empty_tar()), "empty_archive"),
    "empty zip": (empty_zip(), "empty_archive"),
    "noise": (os.urandom(5000), "corrupt_archive"),
    "text": (b"just a few words", "corrupt_archive"),
    "zip of noise": (b"PK\x03\x04" + os.urandom(500), "corrupt_archive"),
    "gz of noise": (b"\x1f\x8b" + os.urandom(500), "corrupt_archive"),
    "gz of text": (gzip.compress(b"no tar in here"), "corrupt_archive"),
    "half a tar": (small_tar()[:5000], "corrupt_archive"),
    "half a tar.gz": (gzip.compress(small_tar())[:5000], "corrupt_archive"),
    "half a zip": (small_zip()[:5000], "corrupt_archive"),
    "name of a gigabyte": (tar_with_a_name_of_a_gigabyte(), "corrupt_archive"),
    "zip bomb": (zip_bomb(), "archive_bomb"),
    "tar bomb": (tar_bomb(), "archive_bomb"),
    "tar bomb in a refused entry": (tar_bomb_in_a_refused_entry(), "archive_bomb"),
    "sparse tar bomb": (sparse_tar_bomb(), "archive_bomb"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_an_archive_that_is_unusable_as_a_whole_fails(tmp_path: Path, settings: Settings, case: str) -> None:
    data, code = UNUSABLE[case]
    archive = tmp_path / "upload"
    archive.write_bytes(data)
    with pytest.raises(DatasetError) as caught:
        unpacked(archive, settings)
    assert caught.value.code == code
    assert caught.value.param == "file"
    assert sum(f.stat().st_size for f in (tmp_path / "unpacked").iterdir()) <= 3 * 1024**2


def test_a_declared_size_is_not_believed(tmp_path: Path, settings: Settings) -> None:
    archive = tmp_path / "upload"
    archive.write_bytes(zip_bomb_that_lies())
    files, refused = unpacked(archive, settings)
    assert (files, refused) == ({}, {"cats/a.png": "damaged_entry"})


def test_entries_and_bytes_are_limited(tmp_path: Path, settings: Settings) -> None:
    archive = tmp_path / "upload"
    archive.write_bytes(small_zip())
    for change, code in (({"max_archive_files": 0}, "too_many_files"), ({"max_unpacked_bytes": 8000}, "dataset_too_large")):
        with pytest.raises(DatasetError) as caught:
            unpack(archive, tmp_path, settings.model_copy(update=change), lambda: None)
        assert caught.value.code == code


@pytest.mark.parametrize(
    ("data", "name"),
    [(b"[]", "upload.json"), (b'\xef\xbb\xbf [{"a": 1}]', "upload.json"), (b'{"a": 1}\n{"a": 2}\n', "upload.jsonl")],
)
def test_json_is_an_archive_of_itself(tmp_path: Path, settings: Settings, data: bytes, name: str) -> None:
    archive = tmp_path / "upload"
    archive.write_bytes(data)
    assert unpacked(archive, settings) == ({name: data}, {})
    with pytest.raises(DatasetError, match="bytes, the most that is allowed"):
        unpack(archive, tmp_path, settings.model_copy(update={"max_unpacked_bytes": 1}), lambda: None)


def test_a_tar_may_begin_as_json_does(tmp_path: Path, settings: Settings) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(tar_member("[old] {pictures}/a.png", size=4), io.BytesIO(b"good"))
    archive = tmp_path / "upload"
    archive.write_bytes(buffer.getvalue())
    assert unpacked(archive, settings) == ({"[old] {pictures}/a.png": b"good"}, {})
