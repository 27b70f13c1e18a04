"""Captioned pictures and plain ones: what is a caption, and which pictures have none."""

import json
from pathlib import Path

import pytest

from difffit_core.errors import DatasetError
from tests.worker.checking import Checker, codes, warnings
from tests.worker.pictures import picture, two_classes
from worker.datasets.layouts.layout import MAX_CAPTION

CASES = Path(__file__).parent / "cases"


def captions(count: int) -> dict[str, bytes]:
    return {f"{i}.png": picture(f"rgb({i}, 0, 0)") for i in range(count)} | {
        f"{i}.txt": f"red {i}".encode() for i in range(count)
    }


def test_a_text_beside_a_picture_is_its_caption(check: Checker) -> None:
    caption = "ein Hund, rot,\nmit Leine — 犬 🐕"
    files = {"set/a.png": picture("red"), "set/a.txt": f"\ufeff{caption} \r\n\n".encode(), "set/sub/b.JPG": picture("blue")}
    checked = check(files | {"set/sub/b.txt": b" b"})
    assert (checked.report["layout"], checked.report["classes"], checked.report["refused"]) == ("captions", {"": 2}, [])
    assert {e.source: e.annotation.caption for e in checked.examples} == {"set/a.png": caption, "set/sub/b.JPG": " b"}
    assert checked.holds == ["caption", "file"]
    assert checked.report["texts"] == {"caption": {"count": 2, "shortest": 2, "longest": len(caption)}}


@pytest.mark.parametrize("case", ["captions-kohya.zip", "captions-double.zip"])
def test_captions_of_other_trainers_are_found(check: Checker, case: str) -> None:
    checked = check((CASES / case).read_bytes())
    assert (checked.report["layout"], checked.report["kept"], checked.report["refused"]) == ("captions", 4, [])
    assert [e.annotation.caption for e in checked.examples] == ["a fox"] * 4


def test_of_two_captions_the_nearest_name_counts_and_the_other_is_told_of(check: Checker) -> None:
    files = {"a.png": picture("red"), "a.txt": b"whole name wins not", "a.png.txt": b"whole name", "b.png": picture("blue")}
    checked = check(files | {"b.caption": b"second", "b.txt": "first".encode("utf-16")})
    assert [e.annotation.caption for e in checked.examples] == ["whole name", "first"]
    assert codes(checked) == {"a.txt": "second_caption", "b.caption": "second_caption"}


def rows_of(count: int = 3) -> dict[str, bytes]:
    return {f"{i}.png": picture(f"rgb({i * 40}, 0, 0)") for i in range(count)}


@pytest.mark.parametrize("column", ["text", "caption", "prompt"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_table_of_captions_is_read_whatever_its_form(check: Checker, column: str, separator: str, encoding: str) -> None:
    rows = [("file_name", column), *((f"{i}.png", f'"a{separator} {i}"') for i in range(3))]
    table = "".join(separator.join(row) + "\r\n" for row in rows).encode(encoding)
    checked = check(rows_of() | {"metadata.tsv" if separator == "\t" else "metadata.csv": table})
    assert [e.annotation.caption for e in checked.examples] == [f"a{separator} {i}" for i in range(3)]
    assert checked.report["warnings"] == []


def test_the_first_of_several_captions_is_used_and_the_others_are_counted(check: Checker) -> None:
    rows = [{"file_name": f"{i}.png", "captions": [f"one {i}", "two"][: 2 - i // 2]} for i in range(3)]
    checked = check(rows_of() | {"metadata.jsonl": "\n".join(map(json.dumps, rows)).encode()})
    assert [e.annotation.caption for e in checked.examples] == ["one 0", "one 1", "one 2"]
    assert warnings(checked)["more_captions"].startswith("2 pictures have several captions")


def test_numbers_of_classes_are_whole_however_a_table_tool_writes_them(check: Checker) -> None:
    table = b"file_name,label\n0.png,0.0\n1.png,1.0\n2.png,10\n"
    assert check(rows_of() | {"metadata.csv": table}).report["classes"] == {"0": 1, "1": 1, "10": 1}
    lines = b'{"file_name": "0.png", "label": 0.0}\n{"file_name": "1.png", "label": 1.5}\n{"file_name": "2.png", "class": NaN}'
    checked = check(rows_of() | {"metadata.jsonl": lines})
    assert (checked.report["classes"], codes(checked)) == ({"0": 1}, {"1.png": "no_label", "2.png": "no_label"})
    versions = b"file_name,label\n0.png,1.0\n1.png,1.1\n2.png,1.1\n"
    assert check(rows_of() | {"metadata.csv": versions}).report["classes"] == {"1.0": 1, "1.1": 2}


def test_columns_that_are_not_read_are_named_once(check: Checker) -> None:
    table = b"file_name,text,prompt,split,empty\n0.png,a,b,train,\n1.png,a,,train,\n2.png,,c,,\n"
    checked = check(rows_of() | {"metadata.csv": table})
    assert [e.annotation.caption for e in checked.examples] == ["a", "a", "c"]
    told = warnings(checked)["unknown_fields"]
    assert told == "These fields of rows are not read: `prompt` (1 rows), `split` (2 rows)."


def test_a_list_in_another_encoding_is_told_of_in_words(check: Checker) -> None:
    with pytest.raises(DatasetError, match="no text in UTF-8, nor in UTF-16 with a mark") as raised:
        check(rows_of() | {"metadata.csv": "file_name,text\n0.png,a\n".encode("utf-16-le")})
    assert raised.value.code == "invalid_metadata_file"
    with pytest.raises(DatasetError, match="they are 'fil�', 'text'"):
        check(rows_of() | {"metadata.csv": b"fil\xe9,text\n0.png,a\n"})
    checked = check(
        rows_of() | {"metadata.jsonl": b'{"file_name": "caf\xe9.png", "text": "a"}\n{"file_name": "0.png", "text": "a"}'}
    )
    assert "'caf�.png'" in next(r["message"] for r in checked.report["refused"] if r["file"] == "metadata.jsonl:1")


def test_a_caption_that_cannot_be_used_refuses_its_picture(check: Checker) -> None:
    files = captions(7) | {"0.txt": b" \n", "1.txt": b"\xff\xfe\x00", "2.txt": b"x" * (MAX_CAPTION + 1), "3.txt": b"a\0b"}
    files |= {"4.txt": b"y" * MAX_CAPTION + b"\n" * 100, "alone.txt": b"nothing", "bare.png": picture("white")}
    checked = check(files)
    assert codes(checked) == {
        "0.png": "empty_caption",
        "1.png": "invalid_caption",
        "2.png": "caption_too_long",
        "3.png": "invalid_caption",
        "alone.txt": "no_picture",
        "bare.png": "no_caption",
    }
    assert [e.source for e in checked.examples] == ["4.png", "5.png", "6.png"]


def test_a_stray_text_makes_no_captioned_dataset(check: Checker) -> None:
    checked = check(two_classes(2) | {"red/0.txt": b"a note"})
    assert (checked.report["layout"], checked.report["kept"], codes(checked)) == ("folders", 4, {"red/0.txt": "not_an_image"})


def test_a_picture_with_two_captions_is_two_examples(check: Checker) -> None:
    same = picture("red")
    checked = check({"a.png": same, "a.txt": b"one", "b.png": same, "b.txt": b"two", "c.png": same, "c.txt": b"one"})
    assert [e.source for e in checked.examples] == ["a.png", "b.png"]
    assert checked.report["duplicates"] == [{"file": "c.png", "same_as": "a.png"}]
    assert checked.report["label_conflicts"] == []


def test_loose_pictures_are_a_dataset_without_classes(check: Checker) -> None:
    checked = check({f"{i}.png": picture(f"rgb(0, {i}, 0)") for i in range(3)} | {"notes.pdf": b"%PDF"})
    assert (checked.report["layout"], checked.report["classes"]) == ("pictures", {"": 3})
    assert (checked.holds, codes(checked), warnings(checked)) == (["file"], {"notes.pdf": "not_an_image"}, {})


def test_loose_pictures_beside_class_folders_are_refused(check: Checker) -> None:
    checked = check(two_classes(2) | {"loose.png": picture("white")})
    assert (checked.report["layout"], codes(checked)) == ("folders", {"loose.png": "no_label"})


@pytest.mark.parametrize("format", ["pictures", "folders"])
def test_a_named_layout_ignores_captions(check: Checker, format: str) -> None:
    checked = check({f"dog/{name}": data for name, data in captions(2).items()}, format)
    assert checked.report["classes"] == {"" if format == "pictures" else "dog": 2}
    assert codes(checked) == {"dog/0.txt": "not_an_image", "dog/1.txt": "not_an_image"}


def test_a_class_of_one_image_is_warned_of(check: Checker) -> None:
    checked = check(two_classes(2) | {"green/a.png": picture("green")})
    assert "'green'" in warnings(checked)["single_image"]


def test_captions_are_part_of_the_hash(check: Checker) -> None:
    files = captions(2)
    assert check(files).sha256 == check(dict(reversed(files.items()))).sha256
    assert check(files).sha256 != check(files | {"0.txt": b"another"}).sha256
    rows = "\n".join(json.dumps({"file_name": f"{i}.png", "text": f"red {i}"}) for i in range(2))
    pictures = {name: data for name, data in files.items() if name.endswith(".png")}
    assert check(files).sha256 == check(pictures | {"metadata.jsonl": rows.encode()}).sha256
