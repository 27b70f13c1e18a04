"""Folders called train and test: which are the parts of a split, and what becomes of their classes."""

import json

import pytest

from tests.worker.checking import Checker, codes, warnings
from tests.worker.pictures import picture
from worker.datasets.layouts.parts import split_folders


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (["train/cat/1.png", "test/cat/2.png"], {"train/": "train", "test/": "test"}),
        (["set/pets/Train/cat/1.png", "set/pets/Val/cat/2.png"], {"set/pets/Train/": "train", "set/pets/Val/": "test"}),
        (["train/a/1.png", "val/a/2.png", "test/a/3.png"], {"train/": "train", "val/": "validation", "test/": "test"}),
        (["set/train/1.png", "set/test/1.png", "set/README.md"], {"set/train/": "train", "set/test/": "test"}),
        (["train/cat/1.png", "train/dog/2.png"], {}),
        (["val/cat/1.png", "test/cat/2.png"], {}),
        (["train/1.png", "test/1.png", "plane/1.png"], {}),
        (["cat/train/1.png", "dog/test/1.png"], {}),
        (["1.png"], {}),
        ([], {}),
    ],
)
def test_the_outermost_folders_are_parts_only_together(names: list[str], parts: dict[str, str]) -> None:
    assert split_folders(names) == parts


def test_classes_in_train_and_test_are_one_class_with_a_split(check: Checker) -> None:
    files = {f"set/{part}/{name}/{i}.png": picture(f"rgb({i}, {ord(name[0])}, {ord(part[1])})")
             for part, count in (("train", 3), ("test", 2)) for name in ("cat", "dog") for i in range(count)}  # fmt: skip
    checked = check(files | {"set/test/loose.png": picture("white")})
    assert checked.report["classes"] == {"cat": 5, "dog": 5}
    assert checked.report["splits"] == {"test": 4, "train": 6}
    assert codes(checked) == {"set/test/loose.png": "no_label"}
    assert warnings(checked) == {}


def test_lists_in_train_and_test_give_a_split(check: Checker) -> None:
    row = json.dumps({"file_name": "a.png", "text": "a square"}).encode()
    lists = {f"{part}/metadata.jsonl": row for part in ("train", "test")}
    checked = check(lists | {"train/a.png": picture("red"), "test/a.png": picture("blue")})
    assert {e.source: e.annotation.split for e in checked.examples} == {"train/a.png": "train", "test/a.png": "test"}


def test_captions_in_train_and_test_give_a_split(check: Checker) -> None:
    files = {
        f"set/{part}/{i}.png": picture(f"rgb({i}, {ord(part[0])}, 0)") for part in ("train", "validation") for i in range(2)
    }
    checked = check(files | {name.replace(".png", ".txt"): name.encode() for name in files})
    assert (checked.report["layout"], checked.report["splits"]) == ("captions", {"test": 2, "train": 2})
    assert {e.source: e.annotation.split for e in checked.examples if e.annotation.split == "test"} == {
        "set/validation/0.png": "test",
        "set/validation/1.png": "test",
    }


def test_an_image_folder_of_the_hub_keeps_its_split(check: Checker) -> None:
    """As `load_dataset("imagefolder")` reads it: a folder and a list for each part, with conditions beside the pictures."""
    files: dict[str, bytes] = {"README.md": b"of the set"}
    for green, part in enumerate(("train", "validation", "test")):
        rows = [
            {"file_name": f"{i}.png", "text": f"{part} {i}", "conditioning_image_file_name": f"edges/{i}.png"} for i in range(2)
        ]
        files[f"data/{part}/metadata.jsonl"] = "\n".join(map(json.dumps, rows)).encode()
        files |= {f"data/{part}/{i}.png": picture(f"rgb({i}, {green}, 0)") for i in range(2)}
        files |= {f"data/{part}/edges/{i}.png": picture(f"rgb({i}, {green}, 9)") for i in range(2)}
    checked = check(files)
    assert (checked.report["layout"], checked.report["kept"], checked.report["conditions"]) == ("metadata", 6, 6)
    assert checked.report["splits"] == {"test": 2, "train": 2, "validation": 2}
    assert all(e.source.split("/")[1] == e.annotation.split for e in checked.examples)


def test_folders_of_one_name_in_several_places_are_warned_of(check: Checker) -> None:
    files = {f"{kind}/other/1.png": picture(colour) for kind, colour in (("animals", "red"), ("plants", "green"))}
    checked = check(files | {"plants/rose/1.png": picture("pink")})
    assert checked.report["classes"] == {"other": 2, "rose": 1}
    assert "'other'" in warnings(checked)["merged_folders"]


def test_classes_that_differ_in_spelling_alone_are_warned_of(check: Checker) -> None:
    names = ("Red fox", "red_fox", "dog", "cat")
    checked = check({f"{name}/1.png": picture(f"rgb({i}, 0, 0)") for i, name in enumerate(names)})
    assert warnings(checked)["similar_classes"].startswith("These classes differ in spelling alone: 'Red fox', 'red_fox'.")
