"""Prompts and answers as tokens: what is learned, what is cut off, and what cannot be used."""

from pathlib import Path

import pytest
import torch

from difffit_core.base_models import BaseModelEntry
from difffit_core.dataset import Item
from difffit_core.errors import DatasetError
from difffit_core.objectives import IGNORED
from difffit_core.tasks.instruction import Instruction
from difffit_core.tasks.task import Examples
from tests.difffit_core.spec_dirs import CPU, write_spec_dir


def instruction(folder: Path, tiny_bases: dict[str, BaseModelEntry], max_tokens: int = 64) -> Instruction:
    base = tiny_bases["instruction"]
    return Instruction(write_spec_dir(folder, base, max_tokens=max_tokens), base, CPU)


def encoded(task: Instruction, *pairs: tuple[str, str]) -> Examples:
    items = [Item(sha256="", prompt=prompt, answer=answer) for prompt, answer in pairs]
    return Examples(items, task.encode(items, Path(), None, lambda done, of: None))


def test_the_answer_and_its_end_are_learned_and_nothing_else(tmp_path: Path, tiny_bases: dict[str, BaseModelEntry]) -> None:
    task = instruction(tmp_path, tiny_bases)
    tensors = encoded(task, ("1 + 1 = ", "2"), ("say it", "as long as this")).tensors
    assert tensors["tokens"].shape == tensors["targets"].shape
    learned = tensors["targets"][0][tensors["targets"][0] != IGNORED]
    assert str(task.tokenizer.decode(learned[:-1])).strip() == "2"
    assert learned[-1] == task.tokenizer.eos_token_id
    assert tensors["tokens"][0, 0] == task.tokenizer.bos_token_id


def test_an_answer_is_cut_off_where_the_tokens_end(tmp_path: Path, tiny_bases: dict[str, BaseModelEntry]) -> None:
    task = instruction(tmp_path, tiny_bases, max_tokens=8)
    tokens = encoded(task, ("ab", "a long answer")).tensors["tokens"]
    assert tokens.shape == (1, 8)
    assert task.tokenizer.eos_token_id not in tokens


@pytest.mark.parametrize(("max_tokens", "cut"), [(64, 0), (12, 1), (8, 2)])
def test_answers_that_are_cut_off_are_counted(
    tmp_path: Path, tiny_bases: dict[str, BaseModelEntry], max_tokens: int, cut: int
) -> None:
    task = instruction(tmp_path, tiny_bases, max_tokens)
    messages = task.warnings_of_encoded(encoded(task, ("ab", "a long answer"), ("ab", "12345"), ("ab", "1")))
    assert [message.split(" answers")[0] for message in messages] == ([f"{cut} of 3"] if cut else [])


def test_prompts_that_leave_no_room_are_counted_and_one_is_named(tmp_path: Path, tiny_bases: dict[str, BaseModelEntry]) -> None:
    task = instruction(tmp_path, tiny_bases, max_tokens=4)
    with pytest.raises(DatasetError, match=": a long prompt…, ") as caught:
        encoded(task, ("a", "b"), ("a long prompt", "no"), ("another long prompt", "no"))
    assert caught.value.message.startswith("2 of 3 prompts")
    named = Item(sha256="", prompt="a long prompt", answer="no", source="alpaca.json:7")
    with pytest.raises(DatasetError, match=r"answer: alpaca\.json:7\."):
        task.encode([named], Path(), None, lambda done, of: None)
    assert (caught.value.code, caught.value.param) == ("prompt_too_long", "hyperparameters.max_tokens")


def test_an_example_costs_the_same_beside_a_longer_one(
    tmp_path: Path, tiny_bases: dict[str, BaseModelEntry], in_fp32: None
) -> None:
    """Padding is on the right, where it is not seen."""
    task = instruction(tmp_path, tiny_bases)
    examples = encoded(task, ("1 + 1 = ", "2"), ("say it", "as long as this"))
    together = task.loss(examples, torch.tensor([0, 1]), {})
    alone = task.loss(examples, torch.tensor([0]), {})
    torch.testing.assert_close(together[0], alone[0])
