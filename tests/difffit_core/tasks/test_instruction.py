"""Prompts and answers as tokens: what is learned, what is cut off, and what cannot be used."""

from pathlib import Path
from typing import Any

import torch

from difffit_core.data.dataset import Item
from difffit_core.process.objectives import IGNORED
from difffit_core.spec.catalog import BaseModelEntry
from difffit_core.spec.conversations import pair
from difffit_core.tasks.instruction import Instruction
from difffit_core.tasks.task import Examples
from tests.difffit_core.spec_dirs import CPU, write_spec_dir


def instruction(folder: Path, tiny_bases: dict[str, BaseModelEntry], max_tokens: int = 64, **others: Any) -> Instruction:
    base = tiny_bases["instruction"]
    return Instruction(write_spec_dir(folder, base, max_tokens=max_tokens, **others), base, CPU)


def encoded(task: Instruction, *pairs: tuple[str, str]) -> Examples:
    items = [Item(sha256="", messages=pair(prompt, answer)) for prompt, answer in pairs]
    return Examples(items, task.encode(items, Path(), None, lambda done, of: None))


def test_the_answer_and_its_end_are_learned_and_nothing_else(tmp_path: Path, tiny_bases: dict[str, BaseModelEntry]) -> None:
    task = instruction(tmp_path, tiny_bases)
    tensors = encoded(task, ("1 + 1 = ", "2"), ("say it", "as long as this")).tensors
    assert tensors["tokens"].shape == tensors["targets"].shape
    learned = tensors["targets"][0][tensors["targets"][0] != IGNORED]
    assert str(task.tokenizer.decode(learned[:-1])).strip() == "2"
    assert learned[-1] == task.tokenizer.eos_token_id
    assert tensors["tokens"][0, 0] == task.tokenizer.bos_token_id


def test_a_row_is_cut_off_where_the_tokens_end(tmp_path: Path, tiny_bases: dict[str, BaseModelEntry]) -> None:
    task = instruction(tmp_path, tiny_bases, max_tokens=8, overlong="cut")
    tokens = encoded(task, ("ab", "a long answer")).tensors["tokens"]
    assert tokens.shape == (1, 8)
    assert task.tokenizer.eos_token_id not in tokens


def test_all_answers_of_a_conversation_are_learned_in_one_row(tmp_path: Path, tiny_bases: dict[str, BaseModelEntry]) -> None:
    task, items = instruction(tmp_path, tiny_bases), [Item(sha256="", messages=[*pair("a", "one"), *pair("b", "two")])]
    tensors = task.encode(items, Path(), None, lambda done, of: None)
    learned = tensors["targets"][0][tensors["targets"][0] != IGNORED]
    assert str(task.tokenizer.decode(learned)).replace(" ", "") == "one</s>two</s>"


def test_an_example_costs_the_same_beside_a_longer_one(
    tmp_path: Path, tiny_bases: dict[str, BaseModelEntry], in_fp32: None
) -> None:
    """Padding is on the right, where it is not seen."""
    task = instruction(tmp_path, tiny_bases)
    examples = encoded(task, ("1 + 1 = ", "2"), ("say it", "as long as this"))
    together = task.loss(examples, torch.tensor([0, 1]), {})
    alone = task.loss(examples, torch.tensor([0]), {})
    torch.testing.assert_close(together[0], alone[0])
