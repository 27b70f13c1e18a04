"""Archives from outside: what is refused entry by entry, and what fails the whole upload."""

import bz2
import gzip
import io
import lzma
import os
import stat
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from difffit_core.errors import DatasetError
from jobstore.kit.settings import Settings
from worker.datasets.archives.archives import Refusal, UnpackedFile, unpack
from worker.datasets.archives.zip import zip_entries


def unpacked(archive: Path, settings: Settings, name: str = "upload") -> tuple[dict[str, bytes], dict[str, str]]:
    """(contents by name, refusal codes by name)."""
    files: list[UnpackedFile]
    refused: list[Refusal]
    into = archive.parent / "unpacked"
    into.mkdir()
    files, refused = unpack(archive, into, settings, lambda: None, name)
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
    "gz of text": (gzip.compress(b"no tar in here", mtime=0), "corrupt_archive"),
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


COMPRESSED: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda data: zstandard.ZstdCompressor(write_checksum=True).compress(data),
    "zst of two frames": lambda data: b"".join(zstandard.ZstdCompressor().compress(part) for part in (data[:700], data[700:])),
}


@pytest.mark.parametrize("kind", COMPRESSED)
def test_compressed_tars_are_read(tmp_path: Path, settings: Settings, kind: str) -> None:
    (tmp_path / "upload").write_bytes(COMPRESSED[kind](small_tar()))
    files, refused = unpacked(tmp_path / "upload", settings)
    assert (set(files), refused) == ({"cats/a.png"}, {})


@pytest.mark.parametrize("kind", ["bz2", "xz", "zst"])
def test_compressed_tars_are_counted_as_they_inflate(tmp_path: Path, settings: Settings, kind: str) -> None:
    (tmp_path / "upload").write_bytes(COMPRESSED[kind](gzip.decompress(tar_bomb())))
    with pytest.raises(DatasetError) as caught:
        unpacked(tmp_path / "upload", settings)
    assert caught.value.code == "archive_bomb"


def test_a_dictionary_of_gigabytes_is_not_allocated(tmp_path: Path, settings: Settings) -> None:
    """An xz header may ask for four gigabytes, before the first byte is inflated."""
    raw = bytearray(lzma.compress(small_tar()))
    begin = len(b"\xfd7zXZ\0") + 6  # of the block's header: its size, flags, LZMA2, one byte of properties, the dictionary
    end = begin + 4 * (raw[begin] + 1) - 4
    assert raw[begin + 2 : begin + 4] == b"\x21\x01"
    raw[begin + 4] = 40
    raw[end : end + 4] = struct.pack("<I", zlib.crc32(raw[begin:end]))
    (tmp_path / "upload").write_bytes(raw)
    with pytest.raises(DatasetError, match="too much memory") as caught:
        unpacked(tmp_path / "upload", settings)
    assert caught.value.code == "archive_bomb"


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_member_of_half_a_gigabyte_is_inflated_in_steps(tmp_path: Path, settings: Settings, method: int) -> None:
    """It would not fit into the memory that the process has; what it says shows that it never tried."""
    archive = tmp_path / "upload"
    with zipfile.ZipFile(archive, "w", method) as packed, packed.open("cats/a.png", "w") as member:
        for _ in range(512):
            member.write(bytes(1024**2))
    with pytest.raises(DatasetError, match="more than 50 times its size") as caught:
        unpacked(archive, settings.model_copy(update={"max_archive_files": 10}))
    assert caught.value.code == "archive_bomb"
    assert sum(f.stat().st_size for f in (tmp_path / "unpacked").iterdir()) <= 3 * 1024**2


def zip_by_zstandard(data: bytes) -> bytes:
    """A zip of one member by method 93, which zipfile writes from Python 3.14 on."""
    packed, buffer = zstandard.ZstdCompressor().compress(data), io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        target.writestr("cats/a.png", packed)
    raw, sizes = buffer.getvalue(), struct.pack("<III", zlib.crc32(data), len(packed), len(data))
    for mark, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        at = raw.index(mark) + offset
        raw = raw[:at] + struct.pack("<H", 93) + raw[at + 2 : at + 6] + sizes + raw[at + 18 :]
    return raw


def test_members_by_every_method_are_read(tmp_path: Path, settings: Settings) -> None:
    data = os.urandom(3000) + bytes(100_000)
    archive = tmp_path / "upload"
    with zipfile.ZipFile(archive, "w") as packed:
        for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
            packed.writestr(f"cats/{method}.png", data, method)
            packed.writestr(f"cats/{method}-empty.png", b"", method)
    files, refused = unpacked(archive, settings)
    assert refused == {}
    assert files == {f"cats/{n}.png": data for n in (0, 8, 12, 14)} | {f"cats/{n}-empty.png": b"" for n in (0, 8, 12, 14)}
    for path in (tmp_path / "unpacked").iterdir():
        path.unlink()
    archive.write_bytes(zip_by_zstandard(data))
    (file,), refusals = unpack(archive, tmp_path / "unpacked", settings, lambda: None)
    assert (file.path.read_bytes(), refusals) == (data, [])


def test_a_member_that_is_damaged_is_refused_whatever_its_method(tmp_path: Path, settings: Settings) -> None:
    archive = tmp_path / "upload"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("cats/good.png", b"good")
        for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
            packed.writestr(f"cats/{method}.png", b"x" * 50_000, method)
            packed.writestr(f"cats/{method}-wrong.png", b"y" * 50_000, method)
    raw = bytearray(archive.read_bytes())
    for info in zipfile.ZipFile(archive).infolist():
        if "good" not in info.filename:
            at = info.header_offset + 30 + len(info.filename)
            raw[at + 30 : at + 40] = bytes(10)
    archive.write_bytes(raw)
    files, refused = unpacked(archive, settings)
    assert files == {"cats/good.png": b"good"}
    assert set(refused.values()) == {"damaged_entry"}
    assert len(refused) == 4


def test_methods_that_are_not_read_are_named(tmp_path: Path, settings: Settings) -> None:
    archive = tmp_path / "upload"
    raw = small_zip()
    for mark, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        at = raw.index(mark) + offset
        raw = raw[:at] + struct.pack("<H", 9) + raw[at + 2 :]
    archive.write_bytes(raw)
    into = tmp_path / "unpacked"
    into.mkdir()
    files, (refused,) = unpack(archive, into, settings, lambda: None)
    assert (files, refused["code"]) == ([], "unsupported_compression")
    assert "Deflate64" in refused["message"]
    assert ".tar.gz" in refused["message"]


OTHER_PACKERS = {"7z": b"7z\xbc\xaf\x27\x1c\0\4", "RAR": b"Rar!\x1a\x07\x01\0", "LZ4": b"\x04\x22\x4d\x18", "lzip": b"LZIP\1"}


@pytest.mark.parametrize("packer", OTHER_PACKERS)
def test_archives_of_other_packers_are_named_with_what_is_taken(tmp_path: Path, settings: Settings, packer: str) -> None:
    (tmp_path / "upload").write_bytes(OTHER_PACKERS[packer] + os.urandom(500))
    with pytest.raises(DatasetError, match=rf"^{packer} archives are not read\. Send \.zip, .*\.tar\.zst") as caught:
        unpacked(tmp_path / "upload", settings)
    assert caught.value.code == "unsupported_archive"


def directory_of(entries: int, declared: int) -> bytes:
    """A zip that is all directory, of `entries` with names of seven characters."""
    names = (b"%07d" % number for number in range(entries))
    directory = b"".join(b"PK\x01\x02" + bytes(24) + struct.pack("<HHH", 7, 0, 0) + bytes(12) + name for name in names)
    end = struct.pack("<HHHHIIH", 0, 0, declared, declared, len(directory), 4, 0)
    return b"PK\x03\x04" + directory + b"PK\x05\x06" + end


@pytest.mark.parametrize("declared", [50_000, 1])
def test_a_zips_directory_is_counted_before_it_is_read(declared: int) -> None:
    """Read whole, these 50,000 entries are over 20 megabytes of objects."""
    upload = io.BytesIO(directory_of(50_000, declared))
    tracemalloc.start()
    with pytest.raises(DatasetError) as caught:
        list(zip_entries(upload, 1000))
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.code == "too_many_files"
    assert used < 1024**2


def test_a_directory_in_the_long_form_is_counted_too() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for number in range(66_000):  # more than the short form can count
            packed.writestr(zipfile.ZipInfo(f"{number}/"), b"")
    assert len(list(zip_entries(buffer, 66_000))) == 66_000
    with pytest.raises(DatasetError, match="more than 65999 entries"):
        next(zip_entries(buffer, 65_999))


def sparse_member(pieces: int) -> bytes:
    """A file in GNU's sparse format 1.0, as macOS's tar writes them: a map of `pieces` before the data."""
    numbers = b"%d\n" % pieces + b"0\n0\n" * (pieces - 1) + b"8\n4\n"
    numbers += bytes(-len(numbers) % tarfile.BLOCKSIZE)
    member = tar_member("GNUSparseFile.0/a.png", size=len(numbers) + 4)
    member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "cats/a.png"}
    member.pax_headers["GNU.sparse.realsize"] = "16"
    return member.tobuf(tarfile.PAX_FORMAT) + numbers + b"data".ljust(512, b"\0") + bytes(1024)


def test_a_sparse_file_is_read_unless_its_map_is_longer_than_any_files(tmp_path: Path, settings: Settings) -> None:
    archive = tmp_path / "upload"
    archive.write_bytes(sparse_member(3))
    assert unpacked(archive, settings) == ({"cats/a.png": bytes(8) + b"data" + bytes(4)}, {})
    archive.write_bytes(sparse_member(500_000))
    with pytest.raises(DatasetError, match="an extended header is too long"):
        unpack(archive, tmp_path / "unpacked", settings, lambda: None)


def test_global_headers_do_not_add_up(tmp_path: Path, settings: Settings) -> None:
    header = tarfile.TarInfo.create_pax_global_header({f"comment{n}": "x" * 500 for n in range(40)})
    (tmp_path / "upload").write_bytes(header + small_tar())
    assert unpacked(tmp_path / "upload", settings)[0].keys() == {"cats/a.png"}
    (tmp_path / "upload").write_bytes(header * 10 + small_tar())
    with pytest.raises(DatasetError, match="global headers"):
        unpack(tmp_path / "upload", tmp_path / "unpacked", settings, lambda: None)


def test_a_reader_that_dies_is_a_refusal(tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel ends processes that take more than they may, without a word of theirs."""
    (tmp_path / "upload").write_bytes(small_zip())
    (tmp_path / "unpacked").mkdir()
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(DatasetError, match="made its reader fail") as caught:
        unpack(tmp_path / "upload", tmp_path / "unpacked", settings, lambda: None)
    assert caught.value.code == "archive_bomb"


def test_work_that_is_to_stop_ends_the_reader(tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "upload").write_bytes(small_zip())
    (tmp_path / "unpacked").mkdir()
    endless = tmp_path / "endless"
    endless.write_text("#!/bin/sh\nexec sleep 600\n")
    endless.chmod(0o700)
    monkeypatch.setattr("sys.executable", str(endless))
    calls = iter([None, None, TimeoutError])

    def keep_alive() -> None:
        if (error := next(calls)) is not None:
            raise error

    with pytest.raises(TimeoutError):
        unpack(tmp_path / "upload", tmp_path / "unpacked", settings, keep_alive)


@pytest.mark.parametrize(
    ("data", "called", "name"),
    [
        (b"[]", "alpaca.json", "alpaca.json"),
        (b'\xef\xbb\xbf [{"a": 1}]', "upload", "upload.json"),
        (b'{"a": 1}\n{"a": 2}\n', "pirates.jsonl", "pirates.jsonl"),
        (b'{"a": 1}\n{"a": 2}\n', "pirates", "pirates.jsonl"),
        (gzip.compress(b'{"a": 1}', mtime=0), "pirates.jsonl.gz", "pirates.jsonl"),
        (b"[]", ".set/of texts", "set_of texts.json"),
    ],
)
def test_json_is_an_archive_of_itself(tmp_path: Path, settings: Settings, data: bytes, called: str, name: str) -> None:
    archive = tmp_path / "upload"
    archive.write_bytes(data)
    plain = gzip.decompress(data) if called.endswith(".gz") else data
    assert unpacked(archive, settings, called) == ({name: plain}, {})
    with pytest.raises(DatasetError, match="bytes, the most that is allowed"):
        unpack(archive, tmp_path / "unpacked", settings.model_copy(update={"max_unpacked_bytes": 1}), lambda: None)


def test_a_tar_may_begin_as_json_does(tmp_path: Path, settings: Settings) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(tar_member("[old] {pictures}/a.png", size=4), io.BytesIO(b"good"))
    archive = tmp_path / "upload"
    archive.write_bytes(buffer.getvalue())
    assert unpacked(archive, settings) == ({"[old] {pictures}/a.png": b"good"}, {})
