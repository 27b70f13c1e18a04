"""Rows that are too long or that no frame takes: what becomes of them, and what is said."""

from typing import Any

import pytest

from difffit_core.data.dataset import Item
from difffit_core.data.framing import Framing
from difffit_core.data.rows import SortedRows, sort_rows
from difffit_core.errors import DatasetError
from difffit_core.spec.conversations import pair
from tests.tiny_models import tiny_llama_tokenizer

ROWS = [("ab", "1"), ("ab", "a long answer"), ("a prompt that is long", "no")]  # 6, 18 and 26 tokens with their marks


def sorted_rows(overlong: Any, max_tokens: int = 16, rows: list[tuple[str, str]] = ROWS) -> SortedRows:
    items = [Item(sha256=str(i), messages=pair(*row), source=f"rows.json:{i}") for i, row in enumerate(rows, start=1)]
    return sort_rows(items, Framing(tiny_llama_tokenizer(), "none"), max_tokens, overlong)


def test_long_rows_are_left_out_and_told_of() -> None:
    rows = sorted_rows("drop")
    rows.check()
    assert [item.source for item in rows.kept] == ["rows.json:1"]
    (told,) = rows.warnings()
    assert told.startswith("2 of 3 rows have more than 16 tokens and are left out: rows.json:2, rows.json:3.")
    counts = rows.counts()
    assert (counts.total, counts.kept, counts.overlong, counts.unframed) == (3, 1, 2, 0)
    assert counts.longest > 20


def test_long_rows_are_cut_where_that_leaves_an_answer() -> None:
    rows = sorted_rows("cut")
    rows.check()
    assert [item.source for item in rows.kept] == ["rows.json:1", "rows.json:2"]
    cut, left_out = rows.warnings()
    assert cut.startswith("2 of 3 rows have more than 16 tokens and are cut off there: rows.json:2, rows.json:3.")
    assert left_out.startswith("1 of 3 rows are left out") and "rows.json:3" in left_out  # noqa: PT018
    assert (rows.counts().total, rows.counts().kept) == (3, 2)


def test_long_rows_end_the_job_where_it_says_so() -> None:
    with pytest.raises(DatasetError, match="2 of 3 rows have more than 16 tokens, the longest") as caught:
        sorted_rows("fail").check()
    assert (caught.value.code, caught.value.param) == ("row_too_long", "hyperparameters.overlong")
    sorted_rows("fail", max_tokens=64).check()


def test_a_dataset_without_a_usable_row_says_why() -> None:
    with pytest.raises(DatasetError, match=r"No row .* 3 of 3 rows have more than 3 tokens") as caught:
        sorted_rows("drop", max_tokens=3).check()
    assert (caught.value.code, caught.value.param) == ("no_usable_rows", "dataset")


def test_rows_that_the_frame_does_not_take_are_left_out() -> None:
    tool = Item(sha256="t", messages=[{"role": "tool", "content": "x"}, *pair("a", "b")], source="rows.json:9")
    plain = Item(sha256="p", messages=pair("a", "b"))
    rows = sort_rows([tool, plain], Framing(tiny_llama_tokenizer(), "alpaca"), 512, "drop")
    assert rows.kept == [plain]
    (told,) = rows.warnings()
    assert told.startswith("1 of 2 rows are left out: rows.json:9. Of the first, the frame 'alpaca'")
    assert rows.counts().unframed == 1
