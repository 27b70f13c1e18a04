"""What an upload sends: archives of folders, and multipart bodies read from disk."""

import tracemalloc
import zipfile
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import HTTP
from pathlib import Path

import pytest

from client.errors import ConfigError
from client.upload import MultipartBody, pack_folder, prepare_upload


def parse(body: MultipartBody) -> dict[str, tuple[str | None, bytes]]:
    """The parts of a multipart body by name, as (file name, content), read by the standard library."""
    sent = b"".join(body)
    assert len(sent) == body.length
    head = f"content-type: {body.headers['content-type']}\r\n\r\n".encode()
    message = BytesParser(EmailMessage, policy=HTTP.clone(raise_on_defect=True)).parsebytes(head + sent)
    parts = {}
    for part in message.iter_parts():
        content = part.get_payload(decode=True)
        assert isinstance(content, bytes)
        parts[str(part.get_param("name", header="content-disposition"))] = (part.get_filename(), content)
    return parts


def test_a_body_carries_fields_and_files(tmp_path: Path) -> None:
    picture = tmp_path / 'a "cat".png'
    picture.write_bytes(bytes(range(256)) * 3)
    parts = parse(MultipartBody({"name": "cats", "label": "cät"}, [picture]))
    assert parts["name"] == (None, b"cats")
    assert parts["label"] == (None, "cät".encode())
    assert parts["file"] == ("a %22cat%22.png", picture.read_bytes())


def test_progress_ends_at_the_length_of_the_body(tmp_path: Path) -> None:
    big = tmp_path / "big.zip"
    big.write_bytes(bytes(1_000_000))
    seen: list[tuple[int, int]] = []
    body = MultipartBody({}, [big], lambda done, total: seen.append((done, total)))
    for _ in body:
        pass
    assert seen == sorted(seen)
    assert seen[-1] == (body.length, body.length)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    big = tmp_path / "big.zip"
    with big.open("wb") as file:
        file.truncate(200_000_000)
    tracemalloc.start()
    sent = sum(len(chunk) for chunk in MultipartBody({}, [big]))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sent > 200_000_000
    assert peak < 4_000_000


def test_a_file_that_shrinks_while_it_is_sent_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "growing.zip"
    file.write_bytes(bytes(100))
    body = MultipartBody({}, [file])
    file.write_bytes(bytes(50))
    with pytest.raises(ConfigError, match="became shorter"):
        b"".join(body)


def test_a_folder_is_stored_without_hidden_files(tmp_path: Path) -> None:
    folder = tmp_path / "pets"
    for name in ("cats/tom.png", "cats/.DS_Store", ".git/config", "dogs/rex.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x" * 100)
    with prepare_upload([folder]) as upload:
        assert upload.left_out == 2
        (archive,) = upload.files
        assert archive.name == "pets.zip"
        with zipfile.ZipFile(archive) as opened:
            assert opened.namelist() == ["cats/tom.png", "dogs/rex.png"]
            assert {entry.compress_type for entry in opened.infolist()} == {zipfile.ZIP_STORED}
    assert not archive.exists()


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no files"):
        pack_folder(tmp_path, tmp_path / "archive.zip")


def test_a_folder_and_an_image_together_are_refused(tmp_path: Path) -> None:
    picture = tmp_path / "tom.png"
    picture.touch()
    with pytest.raises(ConfigError, match="one folder, or one archive"), prepare_upload([tmp_path, picture]):
        pass


def test_one_file_of_texts_is_sent_alone_and_a_list_beside_its_images(tmp_path: Path) -> None:
    names = ("chat.jsonl", "metadata.jsonl", "tom.png")
    chat, metadata, picture = (tmp_path / name for name in names)
    for path in (chat, metadata, picture):
        path.touch()
    with prepare_upload([chat]) as upload:
        assert upload.files == [chat]
    with prepare_upload([picture, metadata]) as upload:
        assert upload.files == [picture, metadata]
    with pytest.raises(ConfigError, match="one file of texts"), prepare_upload([chat, picture]):
        pass
