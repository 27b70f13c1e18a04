"""Captioned pictures and plain ones: what is a caption, and which pictures have none."""

import json

import pytest

from tests.worker.checking import Checker, codes, warnings
from tests.worker.pictures import picture, two_classes
from worker.layouts.layout import MAX_CAPTION


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
