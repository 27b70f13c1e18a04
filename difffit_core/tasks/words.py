"""What people are told of a task: the units of what it learns and makes, and what it is asked by. Torch-free."""

from typing import NamedTuple

from difffit_core.tasks.config import TaskName


class Words(NamedTuple):
    """Units in the plural; `asked_by` is the part of `difffit generate` that says what to make."""

    examples: str
    results: str
    asked_by: str


PICTURES_OF_PROMPTS = Words("images", "images", "--prompt …")
TEXTS = Words("rows", "answers", "--prompt …")
WORDS: dict[TaskName, Words] = {
    "class-conditional": Words("images", "images", "--label …"),
    "text-to-image": PICTURES_OF_PROMPTS,
    "dreambooth": PICTURES_OF_PROMPTS,
    "controlnet": Words("images", "images", "--prompt … --condition …"),
    "instruction": TEXTS,
}


def words_of(task: str) -> Words:
    """Those of a task as a server names it; of one that is not known here, pictures of prompts."""
    return next((words for name, words in WORDS.items() if name == task), PICTURES_OF_PROMPTS)
