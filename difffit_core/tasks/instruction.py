"""Conversations on a Llama folder: the next token of an answer is what is learned."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from difffit_core.data.buckets import Size
from difffit_core.data.dataset import Item
from difffit_core.data.framing import Framing
from difffit_core.data.rows import sort_rows
from difffit_core.families.networks import load_language_model, load_tokenizer
from difffit_core.process.objectives import IGNORED, next_token_loss
from difffit_core.runtime.devices import training_autocast
from difffit_core.runtime.fake_weights import has_numbers
from difffit_core.spec.catalog import BaseModelEntry
from difffit_core.spec.conversations import Message, is_learned
from difffit_core.spec.job import TrainingSpec
from difffit_core.tasks.config import InstructionConfig
from difffit_core.tasks.task import Examples, Progress, Task, Tensors

PREVIEW_PROMPTS = 4
PREVIEW_TOKENS = 64  # of an answer, at most


class Instruction(Task):
    """Examples are token rows `[N, L]`, padded on the right, where a causal model does not see them."""

    noisy = False

    def __init__(self, spec: TrainingSpec, base: BaseModelEntry, device: torch.device) -> None:
        super().__init__(spec, base, device)
        self.model = load_language_model(base.path, torch.float32)
        self.tokenizer = load_tokenizer(base.path)
        assert isinstance(spec.task, InstructionConfig)
        assert self.h.max_tokens is not None
        self.max_tokens, self.overlong = self.h.max_tokens, self.h.overlong or "cut"
        self.framing = Framing(self.tokenizer, spec.task.asked_in)

    def use_gradient_checkpointing(self) -> None:
        self.model.activation_checkpointing_enable()

    def load_frozen(self) -> None:
        pass

    def release(self) -> None:
        pass

    def usable(self, items: list[Item]) -> tuple[list[Item], list[str]]:
        rows = sort_rows(items, self.framing, self.max_tokens, self.overlong)
        rows.check()
        return rows.kept, rows.warnings()

    def encode(self, items: list[Item], folder: Path, size: Size | None, progress: Progress) -> Tensors:
        """`tokens` and `targets` `[N, L]`; in the targets all but answers is IGNORED."""
        tokens, targets = [], []
        for done, item in enumerate(items, start=1):
            row, learned = (torch.tensor(values[: self.max_tokens]) for values in self.framing.row(item.messages))
            tokens.append(row)
            targets.append(torch.where(learned, row, IGNORED))
            if done % 1000 == 0 or done == len(items):
                progress(done, len(items))
        return {
            "tokens": torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True),
            "targets": torch.nn.utils.rnn.pad_sequence(targets, batch_first=True, padding_value=IGNORED),
        }

    def blank(self, count: int) -> Examples:
        rows = torch.zeros(count, self.max_tokens, dtype=torch.long)
        return Examples([], {"tokens": rows, "targets": rows.clone()})

    def draw(self, examples: Examples, batch: int, generator: torch.Generator) -> Tensors:
        return {}

    def fixed_draw(self, examples: Examples, batch: int, generator: torch.Generator) -> Tensors:
        return {}

    def loss(self, examples: Examples, indices: Tensor, drawn: Tensors) -> Tensor:
        targets = examples.tensors["targets"][indices]  # [B, L]
        length = targets.shape[1]
        if has_numbers(targets):
            length = int((targets != IGNORED).any(dim=0).nonzero().max()) + 1  # of the longest of these examples
        with training_autocast(self.device):
            logits = self.model(examples.tensors["tokens"][indices, :length], use_cache=False).logits
        return next_token_loss(logits, targets[:, :length])

    def preview(self, buckets: Sequence[Examples], stem: Path) -> tuple[Path, list[str]]:
        """A text file of a few conversations up to their last answer, each with the one that the model finds likeliest."""
        conversations = [_until_answer(item.messages) for item in buckets[0].items[:PREVIEW_PROMPTS]]
        self.model.eval()
        answers = [self._answer(messages) for messages in conversations]
        self.model.train()
        prompts = ["\n".join(message["content"] for message in messages) for messages in conversations]
        path = stem.with_suffix(".txt")
        path.write_text("\n\n".join(f"{prompt}\n{answer}" for prompt, answer in zip(prompts, answers, strict=True)) + "\n")
        return path, prompts

    def _answer(self, messages: list[Message]) -> str:
        asked = self.framing.asked(messages) if messages else self.tokenizer("")["input_ids"]
        tokens = torch.tensor([(asked or [self.tokenizer.eos_token_id])[: self.max_tokens - 1]], device=self.device)  # [1, L]
        output = self.model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            do_sample=False,
            max_new_tokens=min(PREVIEW_TOKENS, self.max_tokens - tokens.shape[1]),
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.eos_token_id,
        )
        return str(self.tokenizer.decode(output[0, tokens.shape[1] :], skip_special_tokens=True))


def _until_answer(messages: list[Message]) -> list[Message]:
    """What was said before the last answer that is learned."""
    last = max(place for place, message in enumerate(messages) if is_learned(message))
    return messages[:last]
