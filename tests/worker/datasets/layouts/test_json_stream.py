"""Long JSON is read as the standard library reads it, wherever a piece ends."""

import io
import json
from typing import Any

import pytest

from worker.datasets.layouts import json_stream
from worker.datasets.layouts.json_stream import elements

PROBLEM = r"there is no|no list|no text|Expecting|Unterminated|follows its end"
ARRAYS: list[list[Any]] = [
    [],
    [1],
    [1234567890, -2.5e10, True, None],
    ["", 'a "quoted" \\ 犬'],
    [{"a": [1, {"b": []}]}, [[]], "x"],
]


@pytest.fixture(params=[1, 2, 3, 7, 1000])
def small_chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "CHUNK", request.param)


@pytest.mark.usefixtures("small_chunks")
def test_elements_are_those_of_the_list() -> None:
    for array in ARRAYS:
        for text in (json.dumps(array), json.dumps(array, indent=3, ensure_ascii=False), f" \n{json.dumps(array)}\r\n\t"):
            assert list(elements(io.StringIO(text))) == array
        text = json.dumps({"before": [[1], 2], "number": 12, "wanted": array, "after": {"wanted": [3]}}, indent=1)
        assert list(elements(io.StringIO(text), "wanted")) == array


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(
    "text",
    ["", "{}", "[", "[1", "[1,", "[1,]", "[1 2]", "[1]]", "[1] x", "{1: 2}", '["a', "[tru]", "5", '{"wanted": []', '"a"'],
)
def test_what_is_no_list_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=PROBLEM):
        list(elements(io.StringIO(text)))
    with pytest.raises(ValueError, match=PROBLEM):
        list(elements(io.StringIO(text), "wanted"))


def test_an_element_that_is_too_long_ends_the_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "CHUNK", 16)
    monkeypatch.setattr(json_stream, "MAX_ELEMENT", 100)
    text = io.StringIO('["' + "x" * 10_000 + '"]')
    with pytest.raises(ValueError, match=PROBLEM):
        list(elements(text))
    assert text.tell() < 1000


def test_an_element_that_is_too_deep_ends_the_reading() -> None:
    with pytest.raises(RecursionError):
        list(elements(io.StringIO("[" * 100_000)))
