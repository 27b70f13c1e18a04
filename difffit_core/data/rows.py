"""Rows of texts by their length: which a language model is taught, which are too long, and what is said of those."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from difffit_core.data.dataset import Item
from difffit_core.data.framing import FrameError, Framing
from difffit_core.errors import DatasetError
from difffit_core.families.networks import load_tokenizer
from difffit_core.planning.estimate import Rows
from difffit_core.spec.job import Overlong, TrainingSpec
from difffit_core.tasks.config import InstructionConfig

SHOWN_NAMES = 10


@dataclass
class SortedRows:
    """The rows of a dataset by what becomes of them."""

    max_tokens: int
    overlong: Overlong
    kept: list[Item] = field(default_factory=list)
    longer: list[str] = field(default_factory=list)  # those with more tokens, by name
    unanswered: list[str] = field(default_factory=list)  # of those, where nothing of an answer is left
    unframed: list[str] = field(default_factory=list)
    why_unframed: str = ""  # of the first
    longest: int = 0  # tokens

    @property
    def total(self) -> int:
        left_out = self.unanswered if self.overlong == "cut" else self.longer
        return len(self.kept) + len(left_out) + len(self.unframed)

    def counts(self) -> Rows:
        return Rows(
            total=self.total,
            kept=len(self.kept),
            longest=self.longest,
            overlong=len(self.longer),
            unframed=len(self.unframed),
        )

    def warnings(self) -> list[str]:
        """What is left out or cut off, and why."""
        told = []
        of, limit = f"of {self.total} rows", f"more than {self.max_tokens} tokens"
        advice = "raise hyperparameters.max_tokens, or shorten them"
        if self.longer and self.overlong == "cut":
            told.append(
                f"{len(self.longer)} {of} have {limit} and are cut off there: {_some(self.longer)}. To mend it, {advice}."
            )
        elif self.longer:
            told.append(
                f"{len(self.longer)} {of} have {limit} and are left out: {_some(self.longer)}. To keep them, {advice}; or have "
                'them cut off by hyperparameters.overlong "cut".'
            )
        if self.unanswered and self.overlong == "cut":
            told.append(f"{len(self.unanswered)} {of} are left out, no answer being before the cut: {_some(self.unanswered)}.")
        if self.unframed:
            told.append(f"{len(self.unframed)} {of} are left out: {_some(self.unframed)}. Of the first, {self.why_unframed}.")
        return told

    def check(self) -> None:
        """Raise DatasetError where no such job may be: `row_too_long`, `no_usable_rows`."""
        self.counts().check(self.max_tokens, self.overlong)
        if not self.kept:
            raise DatasetError(
                f"No row of the dataset can be used. {' '.join(self.warnings())}", code="no_usable_rows", param="dataset"
            )


def sort_rows(items: Iterable[Item], framing: Framing, max_tokens: int, overlong: Overlong) -> SortedRows:
    """Measure each row as it is encoded."""
    rows = SortedRows(max_tokens, overlong)
    for item in items:
        try:
            _, learned = framing.row(item.messages)
        except FrameError as error:
            rows.why_unframed = rows.why_unframed or str(error)
            rows.unframed.append(item.name)
            continue
        rows.longest = max(rows.longest, len(learned))
        has_answer = any(learned[:max_tokens])
        if len(learned) > max_tokens:
            rows.longer.append(item.name)
            if not has_answer:
                rows.unanswered.append(item.name)
        if len(learned) <= max_tokens or (overlong == "cut" and has_answer):
            rows.kept.append(item)
    return rows


def measure(spec: TrainingSpec, items: Iterable[Item]) -> Rows:
    """The same for a job, with the tokenizer alone."""
    h = spec.hyperparameters
    assert isinstance(spec.task, InstructionConfig)
    assert h.max_tokens is not None
    framing = Framing(load_tokenizer(Path(spec.base_model_path)), spec.task.asked_in)
    return sort_rows(items, framing, h.max_tokens, h.overlong or "cut").counts()


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN_NAMES]) + (", …" if len(names) > SHOWN_NAMES else "")
