"""What the check keeps of an upload, what it refuses and how it says so."""

import hashlib
import io
import json
import os
import tarfile
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from difffit_core.data.contents import example_sha256
from difffit_core.errors import DatasetError
from jobstore.kit.tables import Dataset
from tests.worker.checking import Checker, codes, warnings
from tests.worker.conftest import Rows
from tests.worker.pictures import huge_picture, picture, two_classes, zip_of
from worker.datasets.check import check_dataset
from worker.datasets.content import write_content, write_preview
from worker.kit.image_pool import ImagePool, Request


def test_class_folders(check: Checker) -> None:
    files = {"animals/cats/a.png": picture("red", (10, 20)), "animals/cats/b.JPG": picture("blue", (30, 30), "JPEG")}
    files |= {"animals/dogs/c.webp": picture("green", (90, 40), "WEBP"), "animals/d.png": picture("black")}
    checked = check(files)
    assert checked.report == {
        "files": 4,
        "kept": 3,
        "layout": "folders",
        "refused": [{"file": "animals/d.png", "code": "no_label", "message": checked.report["refused"][0]["message"]}],
        "duplicates": [],
        "label_conflicts": [],
        "warnings": [{"code": "single_image", "message": checked.report["warnings"][0]["message"]}],
        "classes": {"cats": 2, "dogs": 1},
        "splits": {},
        "sizes": {"smallest": (10, 20), "median": (30, 30), "largest": (90, 40)},
        "texts": {},
        "conditions": 0,
    }


@pytest.mark.parametrize("around", ["", "pets/", "data/pets/"])
def test_what_lies_beside_class_folders_makes_no_class_of_those_around(check: Checker, around: str) -> None:
    files = {f"{around}{name}": data for name, data in two_classes(2).items()}
    beside = {"README.txt": b"x", f"{around}cover.png": picture("pink"), f"{around}LICENSE": b"x"}
    checked = check(files | beside)
    assert checked.report["classes"] == {"blue": 2, "red": 2}
    assert codes(checked) == {
        "README.txt": "not_an_image",
        f"{around}cover.png": "no_label",
        f"{around}LICENSE": "not_an_image",
    }


LEFT_BEHIND = {
    "$RECYCLE.BIN/S-1-5/a.png": "system_file",
    "System Volume Information/a.png": "system_file",
    "__MACOSX/red/a.png": "system_file",
    "red/@eaDir/0.png": "system_file",
    "lost+found/a.png": "system_file",
    "red/THUMBS.DB": "system_file",
    "red/Desktop.ini": "system_file",
    ".Spotlight-V100/Store/a.png": "hidden",
    ".Trash-1000/files/a.png": "hidden",
    ".fseventsd/a.png": "hidden",
    ".git/a.png": "hidden",
    "red/.a.png": "hidden",
    "red/._0.png": "hidden",
}


def test_what_systems_and_tools_leave_behind_is_no_class(check: Checker) -> None:
    checked = check(two_classes(2) | {name: picture(f"rgb(0, {i}, 0)") for i, name in enumerate(LEFT_BEHIND)})
    assert checked.report["classes"] == {"blue": 2, "red": 2}
    assert codes(checked) == LEFT_BEHIND


def test_class_names_are_kept_as_they_are_or_refused_by_what_is_true(check: Checker) -> None:
    kept = ("a:b?", "50% off", "null", "Käse", "猫 🐈\u200d⬛", "cat", "a.b", "-")
    refused = {"bell\a": "invalid_label", "line\nend": "invalid_label", "txt\u202egnp": "invalid_label", "C:": "absolute_path"}
    names = [*kept, "cat ", *refused]
    checked = check({f"{name}/{i}.png": picture(f"rgb({i}, 0, 0)") for i, name in enumerate(names)})
    assert checked.report["classes"] == dict.fromkeys(kept, 1) | {"cat": 2}
    assert codes(checked) == {f"{name}/{names.index(name)}.png": code for name, code in refused.items()}
    assert "spaces around it aside: 'cat'" in warnings(checked)["merged_folders"]


def test_an_upload_of_which_nothing_is_left_fails_for_the_commonest_reason(rows: Rows, tmp_path: Path) -> None:
    files = {f"photos/{i}.heic": b"no picture" for i in range(3)} | {"notes.txt": b"x", "photos/.DS_Store": b"x"}
    files |= {f"photos/.{i}.png": picture() for i in range(9)}
    dataset_id = rows.dataset(zip_of(tmp_path / "upload.zip", files))
    check_dataset(dataset_id)
    error = rows.get(Dataset, dataset_id).error
    assert error is not None
    assert error["code"] == "no_usable_examples"
    assert "4 of 14 were refused as 'photos/0.heic' was: Pictures of this format are not read" in error["message"]
    hidden = rows.dataset(zip_of(tmp_path / "hidden.zip", {".a/1.png": picture()}))
    check_dataset(hidden)
    assert "hidden" in str(rows.get(Dataset, hidden).error)


def test_one_class_is_a_dataset(check: Checker) -> None:
    checked = check({"cats/a.png": picture("red"), "cats/b.png": picture("blue")})
    assert checked.report["classes"] == {"cats": 2}
    assert codes(checked) == {}


def test_files_that_cannot_be_used_are_refused_one_by_one(check: Checker) -> None:
    files = {"cats/good.png": picture(), "cats/notes.txt": b"a text", "cats/empty.png": b""}
    files |= {"cats/damaged.png": picture(size=(640, 640))[:300], "cats/huge.png": huge_picture()}
    files |= {
        "__MACOSX/cats/._good.png": b"x",
        "cats/.DS_Store": b"x",
        "cats/Thumbs.db": b"x",
        "no-folder.png": picture("blue"),
    }
    files |= {"x" * 201 + "/a.png": picture("green"), "cats/vector.svg": b"<svg/>", "../climbs.png": picture("white")}
    checked = check(files)
    assert codes(checked) == {
        "cats/notes.txt": "not_an_image",
        "cats/empty.png": "not_an_image",
        "cats/vector.svg": "not_an_image",
        "cats/damaged.png": "damaged_image",
        "cats/huge.png": "too_many_pixels",
        "__MACOSX/cats/._good.png": "hidden",
        "cats/.DS_Store": "hidden",
        "cats/Thumbs.db": "system_file",
        "no-folder.png": "no_label",
        "x" * 201 + "/a.png": "invalid_label",
        "../climbs.png": "path_outside_archive",
    }
    assert (checked.report["files"], checked.report["kept"]) == (len(files), 1)


def test_a_class_name_that_changes_what_is_shown_beside_it_is_refused(check: Checker) -> None:
    """Terminals, logs and browsers show it to others."""
    names = ["evil\x1b[2J", "two\nlines", "\u202egnp.tac", "half\x9b31m"]
    checked = check({"cats/good.png": picture("red")} | {f"{name}/a.png": picture("blue") for name in names})
    assert codes(checked) == {f"{name}/a.png": "invalid_label" for name in names}
    assert [example.annotation.label for example in checked.examples] == ["cats"]


def test_without_an_image_nothing_is_kept(check: Checker) -> None:
    checked = check({"cats/a.txt": b"a"})
    assert checked.examples == []
    assert checked.report["sizes"] is None


def test_exact_duplicates_are_kept_once_and_conflicts_twice(check: Checker) -> None:
    same = picture("red")
    checked = check({"cats/a.png": same, "cats/b.png": same, "dogs/c.png": same, "dogs/d.png": picture("blue")})
    assert [e.source for e in checked.examples] == ["cats/a.png", "dogs/c.png", "dogs/d.png"]
    assert checked.report["duplicates"] == [{"file": "cats/b.png", "same_as": "cats/a.png"}]
    assert checked.report["label_conflicts"] == [{"files": ["cats/a.png", "dogs/c.png"], "labels": ["cats", "dogs"]}]


def test_metadata_rows(check: Checker) -> None:
    rows: list[object] = [
        {"file_name": "a.png", "label": "cat", "text": "a red cat"},
        {"file_name": "deep/b.png", "label": 7},
        {"file_name": "c.png", "text": "only a text"},
        {"file_name": "d.png", "label": ["a", "list"]},
        {"file_name": "e.png", "label": "half \ud800 of a pair"},
        {"file_name": "a.png", "label": "dog"},
        {"file_name": "gone.png", "label": "cat"},
        {"file_name": "../outside.png", "label": "cat"},
        "no row",
    ]
    lines = "\n".join([*map(json.dumps, rows), "", "{not json", "[" * 100_000]).encode()
    names = ["a.png", "deep/b.png", "c.png", "d.png", "e.png", "no-row.png"]
    files = {f"set/{name}": picture(f"rgb({i}, 0, 0)") for i, name in enumerate(names)}
    checked = check({"set/metadata.jsonl": lines} | files)
    assert checked.report["layout"] == "metadata"
    assert checked.report["classes"] == {"": 1, "7": 1, "cat": 1}
    assert [e.annotation.caption for e in checked.examples] == ["a red cat", "only a text", ""]
    assert codes(checked) == {
        "set/d.png": "no_label",
        "set/e.png": "invalid_label",
        "set/no-row.png": "no_metadata_row",
        "set/metadata.jsonl:6": "duplicate_row",
        "set/metadata.jsonl:7": "missing_file",
        "set/metadata.jsonl:8": "missing_file",
        "set/metadata.jsonl:9": "invalid_metadata_row",
        "set/metadata.jsonl:11": "invalid_metadata_row",
        "set/metadata.jsonl:12": "invalid_metadata_row",
    }


def test_metadata_may_be_a_table(check: Checker) -> None:
    table = 'file_name,label,text\na.png,,"a red cat,\nasleep"\nb.png,dog,\n,cat,nothing\nc.png,,\n'
    pictures = {f"{name}.png": picture(color) for name, color in (("a", "red"), ("b", "blue"), ("c", "green"))}
    checked = check(pictures | {"metadata.csv": table.encode()})
    assert [(e.annotation.label, e.annotation.caption) for e in checked.examples] == [("", "a red cat,\nasleep"), ("dog", "")]
    assert codes(checked) == {"metadata.csv:5": "invalid_metadata_row", "c.png": "no_label"}


def test_a_text_with_commas_and_no_quotes_is_refused_and_not_cut_off(check: Checker) -> None:
    table = 'file_name, text\r\na.png,a red cat, asleep\r\nb.png, "a dog, awake"\r\nc.png,a bird,,\r\n'
    pictures = {f"{name}.png": picture(color) for name, color in (("a", "red"), ("b", "blue"), ("c", "green"))}
    checked = check(pictures | {"metadata.csv": table.encode("utf-8-sig")})
    assert {e.source: e.annotation.caption for e in checked.examples} == {"b.png": "a dog, awake", "c.png": "a bird"}
    (row,) = [r for r in checked.report["refused"] if r["file"] == "metadata.csv:2"]
    assert "into quotes" in row["message"]


@pytest.mark.parametrize("table", ["file_name|text\na.png|a cat\n", "picture,text\na.png,a cat\n"])
def test_a_table_without_a_column_of_files_is_named_with_its_columns(check: Checker, table: str) -> None:
    with pytest.raises(DatasetError, match=r"metadata\.csv cannot be read .* called file_name; they are '") as raised:
        check({"a.png": picture(), "metadata.csv": table.encode()})
    assert (raised.value.code, raised.value.param) == ("invalid_metadata_file", "file")


def test_names_are_found_whether_their_accents_are_characters_of_their_own_or_not(check: Checker) -> None:
    row = {"file_name": unicodedata.normalize("NFC", "caf\u00e9.png"), "text": "coffee"}
    checked = check({unicodedata.normalize("NFD", "caf\u00e9.png"): picture(), "metadata.jsonl": json.dumps(row).encode()})
    assert [(e.source, e.annotation.caption) for e in checked.examples] == [("caf\u00e9.png", "coffee")]


def test_files_that_mean_something_are_refused_with_what_to_do(check: Checker) -> None:
    names = {
        "inner.ZIP": "not unpacked",
        "photo.heic": "PNG or JPEG",
        "a.caption": "have one of their name",
        "train.jsonl": "metadata.jsonl",
    }
    checked = check({f"cats/{name}": b"x" for name in names} | {"cats/a.png": picture(), "cats/b.pdf": b"%PDF"})
    said = {r["file"].removeprefix("cats/"): r["message"] for r in checked.report["refused"]}
    assert set(codes(checked).values()) == {"not_an_image"}
    assert all(words in said[name] for name, words in names.items())
    assert "known format" in said["b.pdf"]


def test_content_holds_pngs_of_the_pixels_and_an_index(check: Checker, tmp_path: Path) -> None:
    """Nothing that was sent is in it, and so nobody who trains on it opens that."""
    files = two_classes(2) | {"red/odd name.jpe g": picture("pink", kind="JPEG")}
    checked = check(files)
    write_content(checked.examples, tmp_path / "content.tar")
    with tarfile.open(tmp_path / "content.tar") as tar:
        tar.extractall(tmp_path / "content")
    rows = [json.loads(line) for line in (tmp_path / "content" / "index.jsonl").read_text().splitlines()]
    assert [row["file"] for row in rows] == [f"{number:06d}.png" for number in range(5)]
    assert {row["source"] for row in rows} == files.keys()
    for row in rows:
        sent = files[row["source"]]
        assert row["sha256"] == example_sha256(file=hashlib.sha256(sent).hexdigest())
        with Image.open(tmp_path / "content" / row["file"]) as plain, Image.open(io.BytesIO(sent)) as image:
            assert (plain.format, plain.tobytes()) == ("PNG", image.tobytes())
    assert set(rows[0]) == {"file", "label", "source", "sha256", "width", "height"}
    assert not list(tmp_path.glob("check-*/unpacked/*"))
    assert not list(tmp_path.glob("check-*/*.png"))


def test_pictures_that_grow_too_large_as_pngs_are_refused(check: Checker) -> None:
    files = {f"a/{i}.jpg": picture(f"rgb({50 * i}, 0, 0)", (400, 400), "JPEG") for i in range(4)}
    check.settings = check.settings.model_copy(update={"max_unpacked_bytes": 15_000, "max_unpack_ratio": 1000})
    assert len(check(files).examples) == 4
    noise = io.BytesIO()
    Image.effect_noise((200, 200), 100).save(noise, "JPEG", quality=20)
    with pytest.raises(DatasetError, match="as they are kept") as raised:
        check({"a/noise.jpg": noise.getvalue()})
    assert raised.value.code == "dataset_too_large"


def test_the_hash_depends_on_labels_and_contents_alone(check: Checker) -> None:
    first = check({"cats/a.png": picture("red"), "dogs/b.png": picture("blue")})
    renamed = check({"pets/dogs/1.png": picture("blue"), "pets/cats/2.png": picture("red")})
    relabelled = check({"cats/a.png": picture("red"), "cats/b.png": picture("blue")})
    assert first.sha256 == renamed.sha256 != relabelled.sha256


def test_the_preview_shows_a_row_for_each_class(check: Checker, tmp_path: Path) -> None:
    checked = check(two_classes(3))
    write_preview(checked.examples, tmp_path / "preview.png")
    with Image.open(tmp_path / "preview.png") as preview:
        blue, red = preview.getpixel((128 + 32, 36)), preview.getpixel((128 + 32, 68 + 36))
    assert (blue, red) == ((0, 0, 255), (255, 0, 0))


def test_an_image_that_takes_too_long_costs_its_decoder_only(tmp_path: Path) -> None:
    """A pipe that nobody writes to stands for an image that never ends."""
    (tmp_path / "good.png").write_bytes(picture())
    os.mkfifo(tmp_path / "endless.png")
    with ImagePool(tmp_path, max_pixels=10_000, seconds_per_image=1) as pool:
        names = ["good.png", "endless.png", "good.png", "good.png"]
        answers = list(pool.check(Request(tmp_path / name, tmp_path / f"{i}-plain.png") for i, name in enumerate(names)))
    assert [getattr(answer, "code", "good") for answer in answers] == ["good", "too_slow", "good", "good"]
