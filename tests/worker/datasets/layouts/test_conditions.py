"""Pictures with conditions: rows of metadata.jsonl that name both, and COCO-Stuff with its label maps."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from difffit_core.data.dataset import read_index, summarize
from difffit_core.errors import DatasetError
from tests.worker.checking import Checker, codes, warnings
from tests.worker.pictures import picture
from worker.datasets.check import CheckedDataset
from worker.datasets.content import write_content, write_preview
from worker.kit.label_colours import colour_of


def metadata(*rows: dict[str, Any]) -> dict[str, bytes]:
    return {"metadata.jsonl": "\n".join(json.dumps(row) for row in rows).encode()}


def row(number: int, **more: Any) -> dict[str, Any]:
    return {"image": f"images/{number}.png", "conditioning_image": f"edges/{number}.png", "text": f"a {number}"} | more


def pairs(*sizes: tuple[int, int]) -> dict[str, bytes]:
    """Pictures of 60 x 40, with conditions of these sizes."""
    files = {f"images/{i}.png": picture(f"rgb(9, {i}, 0)", (60, 40)) for i in range(len(sizes))}
    return files | {f"edges/{i}.png": picture(f"rgb(0, {i}, 9)", size) for i, size in enumerate(sizes)}


def content(checked: CheckedDataset, folder: Path) -> Path:
    write_content(checked.examples, folder / "content.tar")
    with tarfile.open(folder / "content.tar") as tar:
        tar.extractall(folder / "content")
    return folder / "content"


def test_rows_name_a_picture_its_condition_and_its_text(check: Checker, tmp_path: Path) -> None:
    files = pairs((60, 40), (60, 40))
    names = {"image_file_name": "images/1.png", "conditioning_image_file_name": "edges/1.png", "text": "one, two\nthree  "}
    checked = check(files | metadata(row(0), names))
    assert checked.holds == ["caption", "condition", "file"]
    assert (checked.report["refused"], checked.report["conditions"], checked.report["warnings"]) == ([], 2, [])
    items = read_index(content(checked, tmp_path), ("file", "caption", "condition"))
    assert [item.caption for item in items] == ["a 0", "one, two\nthree"]
    for name, sent in ((items[1].file, "images/1.png"), (items[1].condition, "edges/1.png")):
        with Image.open(tmp_path / "content" / name) as kept, Image.open(io.BytesIO(files[sent])) as image:
            assert kept.tobytes() == image.tobytes()
    summary = summarize(items)
    assert (summary.sha256, summary.holds) == (checked.sha256, checked.holds)


def test_a_condition_of_another_size_is_scaled_and_of_another_shape_refused(check: Checker) -> None:
    checked = check(pairs((60, 40), (30, 20), (91, 61), (40, 60), (60, 38)) | metadata(*map(row, range(5))))
    assert codes(checked) == {"images/3.png": "condition_shape", "images/4.png": "condition_shape"}
    assert "40 x 60" in checked.report["refused"][0]["message"]
    assert "2 conditions" in warnings(checked)["condition_size"]
    assert "'images/1.png', 'images/2.png'" in warnings(checked)["condition_size"]


def test_a_pair_without_its_half_is_refused(check: Checker) -> None:
    files = pairs((60, 40), (60, 40), (60, 40), (60, 40)) | {"edges/1.png": b"damaged"}
    rows = [row(0, conditioning_image="edges/gone.png"), row(1), row(2, conditioning_image=7), row(3)]
    checked = check(files | metadata(*rows))
    assert codes(checked) == {
        "images/0.png": "missing_condition",
        "edges/0.png": "no_metadata_row",
        "edges/1.png": "not_an_image",
        "images/1.png": "unusable_condition",
        "images/2.png": "missing_condition",
        "edges/2.png": "no_metadata_row",
    }
    assert checked.report["kept"] == 1


def test_wrong_texts_and_rows_that_say_nothing_are_refused(check: Checker) -> None:
    files = {f"{i}.png": picture(f"rgb({i}, 0, 0)") for i in range(6)}
    texts: list[dict[str, Any]] = [
        {"text": 5},
        {"text": " "},
        {"text": "\ud800"},
        {},
        {"text": "fine"},
        {"text": "", "label": "cat"},
    ]
    checked = check(files | metadata(*({"file_name": f"{i}.png"} | text for i, text in enumerate(texts))))
    assert codes(checked) == {
        "0.png": "invalid_caption",
        "1.png": "empty_caption",
        "2.png": "invalid_caption",
        "3.png": "no_label",
    }
    assert checked.holds == ["file"]
    assert "1 of 2 examples have no caption" in warnings(checked)["incomplete_caption"]
    assert "'5.png'" in warnings(checked)["incomplete_caption"]
    assert "'4.png'" in warnings(checked)["incomplete_label"]


def test_pictures_may_share_a_condition(check: Checker, tmp_path: Path) -> None:
    checked = check(pairs((60, 40), (60, 40)) | metadata(row(0), row(1) | {"conditioning_image": "edges/0.png"}))
    first, second = read_index(content(checked, tmp_path))
    kept = [(tmp_path / "content" / item.condition).read_bytes() for item in (first, second)]
    assert kept[0] == kept[1]


def test_the_preview_shows_pictures_beside_their_conditions(check: Checker, tmp_path: Path) -> None:
    checked = check(pairs((60, 40), (60, 40)) | metadata(row(0), row(1)))
    assert write_preview(checked.examples, tmp_path / "preview.png")
    with Image.open(tmp_path / "preview.png") as preview:
        middles = [preview.getpixel((128 + 32 + 68 * column, 4 + 32)) for column in range(4)]
    assert middles == [(9, 0, 0), (0, 0, 9), (9, 1, 0), (0, 1, 9)]


def label_map(numbers: list[int], mode: str = "L") -> bytes:
    buffer = io.BytesIO()
    image = Image.new(mode, (16, 16), numbers[0])
    for place, number in enumerate(numbers):
        image.putpixel((place, 0), number)
    image.save(buffer, "PNG")
    return buffer.getvalue()


def photograph(number: int) -> bytes:
    return picture(f"rgb({number}, 90, 90)", (16, 16), "JPEG")


def coco(captions: list[dict[str, Any]] | None) -> dict[str, bytes]:
    images = {f"train2017/00000000000{i}.jpg": photograph(20 * i) for i in (1, 2)} | {
        "val2017/000000000003.jpg": photograph(90)
    }
    maps = {f"stuffthingmaps/train2017/00000000000{i}.png": label_map([0, i, 181, 255]) for i in (1, 2)}
    maps |= {"stuffthingmaps/val2017/000000000003.png": label_map([7])}
    if captions is not None:
        lists = {"info": {"year": 2017}, "images": [{"id": 1}], "annotations": captions, "licenses": []}
        maps["annotations/captions_train2017.json"] = json.dumps(lists).encode()
    return images | maps


CAPTIONS = [{"image_id": 1, "id": 9, "caption": "later"}, {"image_id": 1, "id": 3, "caption": "A man, first.\n"}]
CAPTIONS += [{"image_id": 2, "id": 4, "caption": "two"}, {"image_id": 77, "id": 5, "caption": "not here"}]


def test_coco_stuff(check: Checker, tmp_path: Path) -> None:
    checked = check({f"coco/{name}": data for name, data in coco(CAPTIONS).items()})
    assert (checked.report["layout"], checked.report["refused"]) == ("coco-stuff", [])
    assert [(e.annotation.caption, e.annotation.split) for e in checked.examples] == [
        ("A man, first.", "train"),
        ("two", "train"),
        ("", "test"),
    ]
    assert checked.report["splits"] == {"test": 1, "train": 2}
    assert {"image_count", "split_count", "missing_list", "incomplete_caption"} == warnings(checked).keys()
    folder = content(checked, tmp_path)
    with Image.open(folder / read_index(folder)[0].condition) as coloured:
        assert (coloured.mode, coloured.size) == ("RGB", (16, 16))
        assert [coloured.getpixel((x, 0)) for x in range(4)] == [colour_of(number) for number in (0, 1, 181, 255)]


def test_colours_of_label_maps_are_all_different_and_stay() -> None:
    assert len({colour_of(number) for number in (*range(182), 255)}) == 183
    assert [colour_of(number) for number in (0, 1, 2, 7, 255)] == [
        (128, 0, 0),
        (0, 128, 0),
        (128, 128, 0),
        (64, 0, 0),
        (0, 0, 0),
    ]


def test_coco_stuff_without_captions_or_maps(check: Checker) -> None:
    files = coco(None)
    del files["stuffthingmaps/train2017/000000000002.png"]
    files |= {"stuffthingmaps/val2017/000000000009.png": label_map([1])}
    files |= {"stuffthingmaps/val2017/000000000003.png": label_map([190])}
    checked = check(files, "coco-stuff")
    assert codes(checked) == {
        "train2017/000000000002.jpg": "missing_condition",
        "stuffthingmaps/val2017/000000000009.png": "no_picture",
        "stuffthingmaps/val2017/000000000003.png": "not_a_label_map",
        "val2017/000000000003.jpg": "unusable_condition",
    }
    assert checked.holds == ["condition", "file"]
    assert "captions_train2017.json" in warnings(checked)["missing_list"]


def test_a_coloured_picture_is_no_label_map(check: Checker) -> None:
    files = coco(CAPTIONS) | {"stuffthingmaps/val2017/000000000003.png": picture(size=(16, 16))}
    assert codes(check(files))["stuffthingmaps/val2017/000000000003.png"] == "not_a_label_map"


@pytest.mark.parametrize("captions", [b'{"annotations": [{"image_id": 1', b"[]", b'{"images": []}', b'{"annotations": {}}'])
def test_a_damaged_list_of_captions_is_named(check: Checker, captions: bytes) -> None:
    with pytest.raises(DatasetError, match=r"captions_train2017\.json cannot be read") as raised:
        check(coco(CAPTIONS) | {"annotations/captions_train2017.json": captions})
    assert raised.value.code == "invalid_metadata_file"
    wrong = [{"image_id": "1", "id": 1, "caption": "x"}, *CAPTIONS]
    assert codes(check(coco(wrong)))["annotations/captions_train2017.json:1"] == "invalid_metadata_row"


def test_other_files_are_no_coco_stuff(check: Checker) -> None:
    with pytest.raises(DatasetError, match="label maps") as raised:
        check({"a/b.png": picture()}, "coco-stuff")
    assert raised.value.code == "missing_file"
