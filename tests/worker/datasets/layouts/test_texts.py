"""Instructions and conversations: which rows become examples, and what is said of the others."""

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from difffit_core.data.dataset import read_index, summarize
from difffit_core.errors import DatasetError
from tests.worker.checking import Checker, codes, warnings
from tests.worker.pictures import picture
from worker.datasets import report as dataset_report
from worker.datasets.content import write_content, write_preview
from worker.datasets.layouts import layout
from worker.kit.image_pool import ImagePool

CASES = Path(__file__).parent / "cases"
ALPACA = [
    {"instruction": "Name the capital.", "input": "France", "output": "Paris"},
    {"instruction": "Say {hello}.", "input": "", "output": "hello,\n世界"},
    {"instruction": "Count.", "output": "1 2"},
]

TABLE = 'instruction,input,output\nName the capital.,France,Paris\nSay {hello}.,,"hello,\n世界"\nCount.,,1 2\n'


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
def test_an_instruction_is_a_message_with_its_input(check: Checker, upload: Any) -> None:
    checked = check(upload)
    assert [e.messages for e in checked.examples[:2]] == [
        [{"role": "user", "content": "Name the capital.", "input": "France"}, {"role": "assistant", "content": "Paris"}],
        [{"role": "user", "content": "Say {hello}."}, {"role": "assistant", "content": "hello,\n世界"}],
    ]
    assert (checked.report["layout"], checked.report["kept"], checked.report["classes"]) == ("alpaca", 3, {"": 3})
    assert checked.report["sizes"] is None
    assert checked.report["texts"]["answer"] == {"count": 3, "shortest": 3, "longest": 9}
    assert (checked.holds, checked.frame) == (["messages"], "alpaca")


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


def test_a_conversation_is_one_example_with_its_messages(check: Checker) -> None:
    talk = turns(("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Bye"), ("assistant", "Goodbye"))
    silent = turns(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    silent["messages"][1]["weight"] = 0
    checked = check(lines(talk, silent))
    assert (checked.report["layout"], checked.frame, checked.report["refused"]) == ("chat", "chat", [])
    assert [example.messages for example in checked.examples] == [talk["messages"], silent["messages"]]
    assert checked.report["texts"]["answer"] == {"count": 2, "shortest": 1, "longest": len("HelloGoodbye")}


@pytest.mark.parametrize(
    "theirs",
    [
        {"conversations": [{"from": "system", "value": "S"}, {"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
        {"conversations": [{"from": "human", "value": "Q"}, {"from": "chatgpt", "value": "A"}], "system": "S"},
        {"conversation": [
            {"role": "developer", "content": "S"},
            {"role": "User", "content": "Q"},
            {"role": "model", "content": "A"},
        ]},
        {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}], "system_prompt": "S"},
        {"prompt": [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}],
         "completion": [{"role": "assistant", "content": "A"}]},
        {"messages": [
            {"role": "system", "content": [{"type": "text", "text": "S"}]},
            {"role": "user", "content": [{"type": "text", "text": "Q"}]},
            {"role": "assistant", "content": ["A"]},
        ], "tools": []},
        [{"role": "system", "content": "S"}, {"from": "human", "value": "Q"}, {"role": "assistant", "content": "A"}],
    ],
)  # fmt: skip
def test_conversations_of_other_trainers_are_read_alike(check: Checker, theirs: Any) -> None:
    ours = turns(("system", "S"), ("user", "Q"), ("assistant", "A"))["messages"]
    for upload in (json.dumps([theirs]).encode(), lines(theirs, theirs), json.dumps({"data": [theirs]}, indent=1).encode()):
        checked = check(upload)
        assert ([e.messages for e in checked.examples], checked.frame) == ([ours], "chat")
        assert "unknown_fields" not in warnings(checked)


def test_answers_of_tools_are_kept_and_calls_of_tools_are_refused(check: Checker) -> None:
    said = ("user", "Weather?"), ("observation", "rain"), ("function", "cold"), ("tool", "wet"), ("assistant", "Bad.")
    called = turns(*said)
    called["messages"].insert(1, {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]})
    checked = check(lines(turns(*said), called, turns(*said) | {"tools": [{"name": "weather"}]}))
    assert [m["role"] for m in checked.examples[0].messages] == ["user", "tool", "tool", "tool", "assistant"]
    refused = {r["file"]: r["message"] for r in checked.report["refused"]}
    assert "tool_calls" in refused["upload.jsonl:2"]
    assert "`tools`" in refused["upload.jsonl:3"]


def test_what_an_assistant_says_first_is_kept(check: Checker) -> None:
    for said in (
        [("system", "s"), ("assistant", "Hello, I am Bob.")],
        [("assistant", "Hello"), ("user", "a"), ("assistant", "b")],
    ):
        (example,) = check(lines(turns(*said))).examples
        assert [m["role"] for m in example.messages] == [role for role, _ in said]


def test_a_prompt_before_an_answer_is_not_learned(check: Checker) -> None:
    prompt = turns(("user", "a"), ("assistant", "b"), ("user", "c"))["messages"]
    (example,) = check(lines({"prompt": prompt, "completion": turns(("assistant", "d"))["messages"]})).examples
    assert [m.get("weight") for m in example.messages] == [None, 0, None, None]


def test_a_system_text_goes_before_all_else(check: Checker) -> None:
    checked = check((CASES / "sharegpt-system.json").read_bytes())
    assert (checked.report["kept"], checked.report["refused"], warnings(checked)) == (8, [], {})
    assert checked.examples[0].messages[0] == {"role": "system", "content": "You are a pirate."}
    twice = {"system": "a", **turns(("system", "b"), ("user", "c"), ("assistant", "d"))}
    report = check(lines(twice, turns(("user", "a"), ("assistant", "b")))).report
    assert "two system messages" in report["refused"][0]["message"]


def test_an_instruction_comes_after_its_system_text_and_its_history(check: Checker) -> None:
    checked = check((CASES / "alpaca-lf.json").read_bytes())
    assert [m["content"] for m in checked.examples[0].messages] == ["You are a pirate", "first q", "first a", "Say hi", "hi"]
    assert [e.source for e in checked.examples[1:]] == ["upload.json:3", "upload.json:6"]  # with a blank input, and null
    assert all("input" not in message for example in checked.examples for message in example.messages)
    assert {r["file"]: r["message"] for r in checked.report["refused"]} == {
        "upload.json:2": "The field `output` is no text.",
        "upload.json:4": "The field `output` is empty.",
        "upload.json:5": "The field `instruction` is empty.",
        "upload.json:7": "The field `input` is no text.",
    }
    bad = check(lines(ALPACA[0], ALPACA[1] | {"history": [["a"]]}, ALPACA[1] | {"history": [["a", 2]]})).report["refused"]
    assert [r["message"].split("`")[1] for r in bad] == ["history[0]", "history[0][1]"]


def test_each_field_that_is_not_read_is_named_once(check: Checker) -> None:
    talk = turns(("user", "a"), ("assistant", "b")) | {"id": 7, "meta": {"x": 1}, "empty": None}
    talk["messages"][0]["name"] = "Ann"
    told = warnings(
        check(lines(talk, talk | {"meta": None, "id": 8, "messages": turns(("user", "c"), ("assistant", "d"))["messages"]}))
    )
    assert told["unknown_fields"].removeprefix("These fields of rows are not read: ") == (
        "`id` (2 rows), `messages[].name` (1 rows), `meta` (1 rows)."
    )
    told = warnings(check(json.dumps([row | {"category": "x", "answer": "y"} for row in ALPACA]).encode()))
    assert "`answer` (3 rows), `category` (3 rows)" in told["unknown_fields"]
    many = [{"instruction": str(i), "output": "x", f"key \u0007 {i}": 1} for i in range(200)]
    told = warnings(check(json.dumps(many).encode()))
    assert "`others` (150 rows)" in told["unknown_fields"]
    assert "\u0007" not in told["unknown_fields"]


def test_prompts_with_completions_have_no_frame(check: Checker) -> None:
    checked = check((CASES / "prompt-completion.jsonl").read_bytes())
    assert (checked.report["layout"], checked.frame, checked.report["kept"]) == ("completions", "none", 4)
    assert checked.examples[0].messages == [{"role": "user", "content": "Q0"}, {"role": "assistant", "content": " A"}]
    texts = check(lines({"text": "Once upon a time"}, {"prompt": "", "completion": "x"}, {"prompt": "p", "system": "s"}))
    assert [e.messages for e in texts.examples] == [
        [{"role": "assistant", "content": "Once upon a time"}],
        [{"role": "assistant", "content": "x"}],
    ]
    assert "`system`" in texts.report["refused"][0]["message"]


@pytest.mark.parametrize(
    "upload",
    [
        json.dumps({"data": ALPACA}).encode(),
        json.dumps({"version": "1", "data": ALPACA}, indent=2).encode(),
        json.dumps(ALPACA).encode() + b"\n" + json.dumps(ALPACA[:1]).encode(),
        json.dumps(ALPACA).encode("utf-16"),
        {"rows.jsonl": lines(*ALPACA).decode().encode("utf-16")},
        {"rows.csv": TABLE.encode()},
        {"rows.tsv": TABLE.replace(",", "\t").encode("utf-16")},
        {"rows.csv": TABLE.replace(",", ";").replace("instruction", "question").replace("output", "response").encode()},
    ],
    ids=["data", "data over lines", "a list a line", "utf-16", "lines in utf-16", "csv", "tsv", "semicolons"],
)  # fmt: skip
def test_rows_are_found_however_they_are_wrapped(check: Checker, upload: Any) -> None:
    checked = check(upload)
    answers = [e.messages[-1]["content"] for e in checked.examples]
    assert [answers[0], answers[1][:5], answers[1][-2:], answers[2]] == ["Paris", "hello", "世界", "1 2"]
    assert (checked.examples[0].messages[0].get("input"), checked.report["refused"]) == ("France", [])


def test_a_table_that_cannot_be_read_says_why_in_words(check: Checker) -> None:
    table = "instruction,output\na,b\n"
    with pytest.raises(DatasetError, match="save it as UTF-8"):
        check({"rows.csv": table.encode("utf-16-le")})
    (refused,) = check({"rows.csv": table.encode() + b"caf\xe9,x\n"}).report["refused"]
    assert refused["message"].endswith("Save the file as UTF-8.")
    (refused,) = check({"rows.csv": table.encode() + b"a,b,c\n"}).report["refused"]
    assert "more cells" in refused["message"]


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
        (turns(("user", "a"), ("tool", "b")), "messages[1]"),
        ({"messages": [{"role": "assistant", "content": "b", "weight": 0.5}]}, "messages[0].weight"),
        (turns(*[("user", "a"), ("assistant", "b")] * 501), "messages"),
        (turns(("user", "a"), ("assistant", "")), "messages[1].content"),
        (turns(("user", "a"), ("assistant", [{"type": "text"}])), "messages[1].content"),
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
    items = read_index(tmp_path / "content", ("messages",))
    assert [(i.messages, i.source) for i in items] == [(e.messages, e.source) for e in checked.examples]
    assert (summarize(items).sha256, summarize(items).holds) == (checked.sha256, ["messages"])
    assert write_preview(checked.examples, tmp_path / "preview.png") is False


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
