"""The published datasets as their authors distribute them: recognised, read, compared with what is published."""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from difffit_core.data.dataset import read_index, split, summarize
from difffit_core.errors import DatasetError
from jobstore.datasets.formats import FORMATS as NAMES
from tests.worker.checking import Checker, codes, warnings
from tests.worker.datasets.layouts.miniatures import (
    MINIATURES,
    Miniature,
    caltech101,
    cars,
    cars_together,
    cub200,
    endless_cells,
    flowers102,
    food101,
    mat,
    structs,
    sun397,
)
from tests.worker.pictures import picture, two_classes
from worker.datasets.check import CheckedDataset
from worker.datasets.content import write_content
from worker.datasets.layouts.flowers102 import CLASSES
from worker.datasets.layouts.layout import Annotation, Layout, Published
from worker.datasets.layouts.registry import FORMATS, compare_with_published


def annotations(checked: CheckedDataset) -> dict[str, tuple[str, str]]:
    return {e.source: (e.annotation.label, e.annotation.split) for e in checked.examples}


@pytest.mark.parametrize(
    ("name", "make"),
    [(name, make) for name, makers in MINIATURES.items() for make in makers],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_each_is_recognised_and_read(check: Checker, name: str, make: Callable[[], Miniature]) -> None:
    small = make()
    checked = check(small.files)
    assert checked.report["layout"] == name
    assert annotations(checked) == small.expected
    assert set(codes(checked).values()) <= {"not_an_image"}
    parts = [part for _, part in small.expected.values() if part]
    assert checked.report["splits"] == {part: parts.count(part) for part in sorted(set(parts))}
    assert {"class_count", "image_count"} <= warnings(checked).keys()
    assert "missing_files" not in warnings(checked)


@pytest.mark.parametrize("name", MINIATURES)
def test_folders_around_it_make_no_difference(check: Checker, name: str) -> None:
    small = MINIATURES[name][0]()
    checked = check({f"downloads/{file}": data for file, data in small.files.items()}, name)
    assert annotations(checked) == {f"downloads/{file}": caption for file, caption in small.expected.items()}


GENERAL = {"alpaca", "captions", "chat", "coco-stuff", "completions", "folders", "metadata", "pictures"}


def test_the_api_offers_what_workers_read() -> None:
    assert sorted(NAMES) == sorted(FORMATS)
    assert FORMATS.keys() - MINIATURES.keys() == GENERAL
    assert len(set(CLASSES)) == 102


@pytest.mark.parametrize("name", sorted(MINIATURES))
def test_a_named_format_with_other_content_says_what_is_missing(check: Checker, name: str) -> None:
    with pytest.raises(DatasetError, match=f"This is not {name} .* there is no .* in the archive") as raised:
        check(two_classes(1), name)
    assert (raised.value.code, raised.value.param) == ("missing_file", "format")


def test_the_missing_file_is_named(check: Checker) -> None:
    files = cub200().files
    del files["CUB_200_2011/train_test_split.txt"]
    with pytest.raises(DatasetError, match=r"there is no train_test_split\.txt in the archive"):
        check(files, "cub-200-2011")
    assert check(files).report["layout"] == "folders"


def test_a_named_format_goes_before_what_would_be_recognised(check: Checker) -> None:
    checked = check(food101().files, "folders")
    assert checked.report["layout"] == "folders"
    assert checked.report["splits"] == {}


def test_rows_without_files_and_files_without_rows_are_reported(check: Checker) -> None:
    files = cub200().files
    gone = "CUB_200_2011/images/002.Laysan_Albatross/Laysan_Albatross_0001_545.jpg"
    stray = "CUB_200_2011/images/002.Laysan_Albatross/mine.jpg"
    files[stray] = files.pop(gone)
    files["CUB_200_2011/classes.txt"] += b"nonsense\n"
    checked = check(files)
    assert gone in warnings(checked)["missing_files"]
    assert codes(checked)[stray] == "no_metadata_row"
    assert codes(checked)["CUB_200_2011/classes.txt:3"] == "invalid_metadata_row"
    assert checked.report["classes"] == {"Black_footed_Albatross": 2}


def test_images_that_the_split_leaves_out_keep_the_class_of_their_folder(check: Checker) -> None:
    extra = {"food-101/images/waffles/mine.jpg": picture("white", kind="JPEG")}
    checked = check(food101().files | extra)
    assert annotations(checked)["food-101/images/waffles/mine.jpg"] == ("waffles", "")
    assert warnings(checked)["no_split"].startswith("1 images")


def test_names_that_no_database_holds_are_shown_with_a_mark(check: Checker) -> None:
    names = json.dumps({"waffles": ["waffles/\0 \ud800"], "half \ud800": ["waffles/5"]})
    checked = check(food101().files | {"food-101/meta/train.json": names.encode()})
    assert "\N{REPLACEMENT CHARACTER} \N{REPLACEMENT CHARACTER}" in warnings(checked)["missing_files"]
    assert codes(checked)["food-101/images/waffles/5.jpg"] == "invalid_label"


def test_a_file_in_both_parts_stays_in_the_first(check: Checker) -> None:
    files = food101().files
    files["food-101/meta/test.json"] = json.dumps({"waffles": ["waffles/5", "waffles/6"]}).encode()
    checked = check(files)
    assert annotations(checked)["food-101/images/waffles/5.jpg"] == ("waffles", "train")
    assert "waffles/5.jpg" in warnings(checked)["duplicate_rows"]


def test_sun397_without_its_partitions_has_no_split(check: Checker) -> None:
    files = {name: data for name, data in sun397().files.items() if "Partitions" not in name}
    checked = check(files)
    assert (checked.report["layout"], checked.report["splits"]) == ("sun397", {})
    assert warnings(checked)["no_split"].startswith("4 images")


def test_cars_without_the_classes_of_the_test_images(check: Checker) -> None:
    files = cars().files
    del files["stanford_cars/cars_test_annos_withlabels.mat"]
    checked = check(files)
    assert "cars_test_annos_withlabels.mat" in warnings(checked)["missing_list"]
    assert codes(checked) == {"stanford_cars/cars_test/00001.jpg": "no_metadata_row"}


@pytest.mark.parametrize("published", [0, 1])
def test_counts_are_compared_with_the_published_ones(published: int) -> None:
    counts = (Published(2, 3, {"train": 2, "test": 1}), Published(3, 4, {"train": 3, "test": 1}))
    layout = Layout("food-101", counts[published])
    compare_with_published(
        layout, [Annotation("a", split="train"), Annotation("b", split="train"), Annotation("a", split="test")]
    )
    assert [w["code"] for w in layout.warnings] == [[], ["class_count", "image_count", "split_count"]][published]


@pytest.mark.parametrize("name", MINIATURES)
def test_published_counts_add_up(name: str) -> None:
    published = FORMATS[name].published
    assert published is not None
    if published.splits and name != "sun397":  # whose partitions leave most images out
        assert sum(published.splits.values()) == published.images


@pytest.mark.parametrize(
    ("make", "name", "data", "problem"),
    [
        (flowers102, "setid.mat", b"MATLAB 7.3 MAT-file, Platform: GLNXA64" + bytes(474) + b"\x89HDF\r\n\x1a\n", "format 7.3"),
        (flowers102, "setid.mat", b"nonsense" * 100, "no MATLAB file"),
        (flowers102, "imagelabels.mat", flowers102().files["imagelabels.mat"][:150], "imagelabels.mat cannot be read"),
        (flowers102, "imagelabels.mat", mat(other=[[1]]), "no variable 'labels'"),
        (flowers102, "imagelabels.mat", endless_cells("labels"), "too much memory"),
        (flowers102, "imagelabels.mat", mat(labels=[[1, 103]]), "103 is no class"),
        (flowers102, "imagelabels.mat", mat(labels=[[1, 1.5]]), "more than whole numbers"),
        (cars_together, "cars_annos.mat", mat(annotations=structs([{"a": 1}]), class_names="x"), "has no class or no file"),
        (food101, "food-101/meta/train.json", b"[" * 100_000, "it is no JSON"),
        (food101, "food-101/meta/test.json", b'{"a": 1}', "is no list of names"),
    ],
)
def test_a_damaged_list_is_named(check: Checker, make: Callable[[], Miniature], name: str, data: bytes, problem: str) -> None:
    with pytest.raises(DatasetError, match=problem) as raised:
        check(make().files | {name: data})
    assert raised.value.code == "invalid_metadata_file"
    assert name in raised.value.message


def test_the_split_reaches_training_and_the_hash(check: Checker, tmp_path: Path) -> None:
    small = food101()
    checked = check(small.files)
    write_content(checked.examples, tmp_path / "content.tar")
    with tarfile.open(tmp_path / "content.tar") as tar:
        tar.extractall(tmp_path / "content")
    items = read_index(tmp_path / "content")
    assert summarize(items).sha256 == checked.sha256
    train, held_out = split(items, validation_fraction=0)
    assert (len(train), [item.label for item in held_out]) == (3, ["apple_pie", "waffles"])
    assert checked.sha256 != check(small.files, "folders").sha256


def test_without_a_split_the_hash_is_that_of_class_folders(check: Checker) -> None:
    files = caltech101().files
    assert check(files).sha256 == check(files, "folders").sha256
