"""Instructions and conversations: which rows become examples, and what is said of the others."""

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from difffit_core.dataset import read_index, summarize
from difffit_core.errors import DatasetError
from tests.worker.checking import Checker, codes
from tests.worker.pictures import picture
from worker import dataset_report
from worker.dataset_content import write_content, write_preview
from worker.image_pool import ImagePool
from worker.layouts import layout

ALPACA = [
    {"instruction": "Name the capital.", "input": "France", "output": "Paris"},
    {"instruction": "Say {hello}.", "input": "", "output": "hello,\n世界"},
    {"instruction": "Count.", "output": "1 2"},
]
PROMPT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a response "
    "that appropriately completes the request.\n\n### Instruction:\nName the capital.\n\n### Input:\nFrance\n\n### Response:"
)
SHORT_PROMPT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\nSay {hello}.\n\n### Response:"
)


def lines(*rows: Any) -> bytes:
    return "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows).encode()


def turns(*said: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in said]}


@pytest.mark.parametrize(
    "upload",
    [
        json.dumps(ALPACA).encode(),
        json.dumps(ALPACA, indent=2).encode("utf-8-sig"),
        lines(*ALPACA),
        {"data/alpaca.json": json.dumps(ALPACA).encode(), "README.md": b"# Alpaca"},
        {"alpaca.json": lines(*ALPACA)},
    ],
    ids=["list", "indented with a mark of bytes", "lines", "archive", "lines called json"],
)
def test_alpaca_has_the_known_prompts(check: Checker, upload: Any) -> None:
    checked = check(upload)
    assert [(e.prompt, e.answer) for e in checked.examples[:2]] == [(PROMPT, "Paris"), (SHORT_PROMPT, "hello,\n世界")]
    assert (checked.report["layout"], checked.report["kept"], checked.report["classes"]) == ("alpaca", 3, {"": 3})
    assert checked.report["sizes"] is None
    assert checked.report["texts"]["answer"] == {"count": 3, "shortest": 3, "longest": 9}
    assert checked.holds == ["answer", "prompt"]


def test_rows_without_an_example_name_their_field(check: Checker) -> None:
    rows: list[Any] = [
        ALPACA[0],
        {"instruction": "x", "output": " "},
        {"instruction": "x"},
        {"output": "x"},
        {"instruction": ["x"], "output": "x"},
        {"instruction": "x", "input": 5, "output": "x"},
        {"instruction": "x", "output": "half \ud800"},
        {"instruction": "x", "output": "y" * (layout.MAX_PROMPT + 1)},
        ["no", "object"],
    ]
    for upload, name in ((json.dumps(rows).encode(), "upload.json"), (lines(*rows), "upload.jsonl")):
        report = check(upload).report
        assert (report["kept"], report["files"]) == (1, 1)
        assert {r["file"]: r["message"].split("`")[1::2] for r in report["refused"]} == {
            f"{name}:2": ["output"],
            f"{name}:3": ["output"],
            f"{name}:4": ["instruction"],
            f"{name}:5": ["instruction"],
            f"{name}:6": ["input"],
            f"{name}:7": ["output"],
            f"{name}:8": ["output"],
            f"{name}:9": [],
        }


def test_lines_that_are_no_json_are_refused_one_by_one(check: Checker) -> None:
    damaged = lines(ALPACA[0], "{not json", "[" * 100_000, ALPACA[1]) + b'\n{"instruction": "x", "output": "\xff"}\n\n'
    checked = check(damaged)
    assert codes(checked) == {
        "upload.jsonl:2": "invalid_metadata_row",
        "upload.jsonl:3": "invalid_metadata_row",
        "upload.jsonl:5": "invalid_row",
    }
    assert checked.report["kept"] == 2


@pytest.mark.parametrize(
    "upload",
    [b"[1, 2", b'[{"instruction": "x"', b"[" * 100_000, b'[{"output": "\xff"}]', b'[{"a": 1}] x', b"[" + b"9" * 5000 + b"]"],
)
def test_a_list_that_is_no_json_is_named(check: Checker, upload: bytes) -> None:
    with pytest.raises(DatasetError, match=r"upload\.json cannot be read") as raised:
        check(upload)
    assert (raised.value.code, raised.value.param) == ("invalid_metadata_file", "file")


def test_each_answer_of_a_conversation_is_an_example(check: Checker) -> None:
    talk = turns(("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Bye"), ("assistant", "Goodbye"))
    silent = turns(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    silent["messages"][1]["weight"] = 0
    checked = check(lines(talk, silent))
    assert (checked.report["layout"], checked.report["refused"]) == ("chat", [])
    start = "### System:\nBe brief.\n\n### User:\nHi\n\n### Assistant:\n"
    assert [(e.source, e.prompt, e.answer) for e in checked.examples] == [
        ("upload.jsonl:1", start, "Hello"),
        ("upload.jsonl:1", f"{start}Hello\n\n### User:\nBye\n\n### Assistant:\n", "Goodbye"),
        ("upload.jsonl:2", "### User:\na\n\n### Assistant:\nb\n\n### User:\nc\n\n### Assistant:\n", "d"),
    ]


def test_conversations_of_sharegpt_are_read_alike(check: Checker) -> None:
    said = [("system", "Be brief."), ("human", "Hi"), ("gpt", "Hello")]
    theirs = {"id": "x", "conversations": [{"from": role, "value": text} for role, text in said]}
    (example,) = check(json.dumps([theirs]).encode()).examples
    (ours,) = check(lines(turns(("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello")))).examples
    assert (example.prompt, example.answer) == (ours.prompt, ours.answer)


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({}, "messages"),
        ({"conversations": "hi"}, "conversations"),
        ({"conversations": [{"value": "hi"}]}, "conversations[0].from"),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "bing", "value": "b"}]}, "conversations[1].from"),
        ({"conversations": [{"from": "human", "value": "a"}]}, "conversations[0]"),
        ({"messages": []}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"content": "hi"}]}, "messages[0].role"),
        (turns(("user", "a"), ("tool", "b")), "messages[1].role"),
        (turns(("user", "a"), ("assistant", "")), "messages[1].content"),
        (turns(("user", "a"), ("assistant", [{"type": "text"}])), "messages[1].content"),
        (turns(("assistant", "a")), "messages[0]"),
        (turns(("user", "a"), ("system", "b"), ("assistant", "c")), "messages[1]"),
        (turns(("user", "a"), ("assistant", "b"), ("user", "c")), "messages[2]"),
        (turns(*[("user", "a" * 60_000), ("assistant", "b")] * 4), "messages"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}]}, "messages"),
    ],
)
def test_a_conversation_without_an_example_names_its_field(check: Checker, row: dict[str, Any], field: str) -> None:
    checked = check(lines(turns(("user", "a"), ("assistant", "b")), row))
    (refused,) = checked.report["refused"]
    assert (refused["file"], refused["code"], refused["message"].split("`")[1]) == ("upload.jsonl:2", "invalid_row", field)
    assert checked.report["kept"] == 1


def test_texts_are_a_content_that_training_reads_and_have_no_preview(check: Checker, tmp_path: Path, pool: ImagePool) -> None:
    checked = check(json.dumps([*ALPACA, ALPACA[0]]).encode())
    assert checked.report["duplicates"] == [{"file": "upload.json:4", "same_as": "upload.json:1"}]
    write_content(checked.examples, tmp_path / "content.tar")
    with tarfile.open(tmp_path / "content.tar") as tar:
        assert tar.getnames() == ["index.jsonl"]
        tar.extractall(tmp_path / "content")
    items = read_index(tmp_path / "content", ("prompt", "answer"))
    assert [(i.prompt, i.answer, i.source) for i in items] == [(e.prompt, e.answer, e.source) for e in checked.examples]
    assert (summarize(items).sha256, summarize(items).holds) == (checked.sha256, ["answer", "prompt"])
    assert write_preview(checked.examples, tmp_path, tmp_path / "preview.png", pool) is False


def test_texts_among_pictures_are_no_dataset_of_texts(check: Checker) -> None:
    checked = check({"cats/a.png": picture(), "cats/rows.json": json.dumps(ALPACA).encode()})
    assert (checked.report["layout"], codes(checked)) == ("folders", {"cats/rows.json": "not_an_image"})
    with pytest.raises(DatasetError, match="no file with rows"):
        check({"cats/a.png": picture()}, "alpaca")


def test_a_named_format_goes_before_the_first_row(check: Checker) -> None:
    checked = check(lines(turns(("user", "a"), ("assistant", "b"))), "alpaca")
    assert codes(checked) == {"upload.jsonl:1": "invalid_row"}


def test_examples_and_listed_rows_are_limited(check: Checker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "MAX_TEXTS", 2)
    with pytest.raises(DatasetError) as raised:
        check(json.dumps(ALPACA).encode())
    assert raised.value.code == "too_many_examples"
    monkeypatch.setattr(layout, "MAX_LISTED", 2)
    report = check(lines(ALPACA[0], *["no row"] * 5)).report
    assert (len(report["refused"]), report["warnings"][0]["code"]) == (2, "unlisted_rows")
    assert report["warnings"][0]["message"].startswith("3 more rows")


def test_listed_duplicates_are_limited(check: Checker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_report, "MAX_LISTED", 2)
    report = check(lines(*[ALPACA[0]] * 6)).report
    assert (report["kept"], len(report["duplicates"])) == (1, 2)
    assert report["warnings"] == [
        {"code": "unlisted_duplicates", "message": "3 more examples are duplicates than the report lists."}
    ]


def test_a_description_beside_conversations_does_not_hide_them(check: Checker) -> None:
    checked = check({"about.json": b'{"name": "talks"}', "talks.jsonl": lines(turns(("user", "a"), ("assistant", "b")))})
    assert (checked.report["layout"], codes(checked)) == ("chat", {"about.json:1": "invalid_row"})
