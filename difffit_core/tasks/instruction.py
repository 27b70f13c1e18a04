"""Prompts with answers on a Llama folder: the next token of the answer is what is learned."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from difffit_core.base_models import BaseModelEntry
from difffit_core.buckets import Size
from difffit_core.dataset import Item
from difffit_core.devices import training_autocast
from difffit_core.errors import DatasetError
from difffit_core.networks import load_language_model, load_tokenizer
from difffit_core.objectives import IGNORED, next_token_loss
from difffit_core.spec import TrainingSpec
from difffit_core.tasks.task import SHOWN_NAMES, Examples, Progress, Task, Tensors
from difffit_core.weightless import has_numbers

PREVIEW_PROMPTS = 4
PREVIEW_TOKENS = 64  # of an answer, at most


class Instruction(Task):
    """Examples are token rows `[N, L]`, padded on the right, where a causal model does not see them."""

    noisy = False

    def __init__(self, spec: TrainingSpec, base: BaseModelEntry, device: torch.device) -> None:
        super().__init__(spec, base, device)
        self.model = load_language_model(base.path, torch.float32)
        self.tokenizer = load_tokenizer(base.path)

    def use_gradient_checkpointing(self) -> None:
        self.model.activation_checkpointing_enable()

    def load_frozen(self) -> None:
        pass

    def release(self) -> None:
        pass

    def encode(self, items: list[Item], folder: Path, size: Size | None, progress: Progress) -> Tensors:
        """`tokens` and `targets` `[N, L]`; in the targets the prompt and the padding are IGNORED."""
        tokens, targets, too_long = [], [], []
        for done, item in enumerate(items, start=1):
            prompt, answer = self._tokenize(item)
            if not answer:
                too_long.append(item.name)
            tokens.append(torch.tensor(prompt + answer))
            targets.append(torch.tensor([IGNORED] * len(prompt) + answer))
            if done % 1000 == 0 or done == len(items):
                progress(done, len(items))
        if too_long:
            raise DatasetError(
                f"{len(too_long)} of {len(items)} prompts have so many tokens that of {self.h.max_tokens} none is left for the "
                f"answer: {', '.join(too_long[:SHOWN_NAMES])}. Shorten them, or raise hyperparameters.max_tokens.",
                code="prompt_too_long",
                param="hyperparameters.max_tokens",
            )
        return {
            "tokens": torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True),
            "targets": torch.nn.utils.rnn.pad_sequence(targets, batch_first=True, padding_value=IGNORED),
        }

    def warnings_of_encoded(self, examples: Examples) -> list[str]:
        last = examples.tensors["targets"][:, -1]
        if examples.tensors["targets"].shape[1] != self.h.max_tokens:
            return []
        cut = int(((last != IGNORED) & (last != self.tokenizer.eos_token_id)).sum())
        message = (
            f"{cut} of {len(examples)} answers are cut off, for with their prompts they have more than {self.h.max_tokens} "
            "tokens. Raise hyperparameters.max_tokens, or shorten them."
        )
        return [message] if cut else []

    def blank(self, count: int) -> Examples:
        assert self.h.max_tokens is not None
        rows = torch.zeros(count, self.h.max_tokens, dtype=torch.long)
        return Examples([], {"tokens": rows, "targets": rows.clone()})

    def _tokenize(self, item: Item) -> tuple[list[int], list[int]]:
        """Tokens of prompt and answer, whose end is a token too; of the answer, what of `max_tokens` the prompt leaves."""
        assert self.h.max_tokens is not None
        prompt = self.tokenizer(item.prompt)["input_ids"]
        answer = [*self.tokenizer(item.answer, add_special_tokens=False)["input_ids"], self.tokenizer.eos_token_id]
        return prompt, answer[: max(0, self.h.max_tokens - len(prompt))]

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
        """A text file of a few prompts, each with the answer that the model finds likeliest word by word."""
        prompts = [item.prompt for item in buckets[0].items[:PREVIEW_PROMPTS]]
        self.model.eval()
        answers = [self._answer(prompt) for prompt in prompts]
        self.model.train()
        path = stem.with_suffix(".txt")
        path.write_text("\n\n".join(f"{prompt}\n{answer}" for prompt, answer in zip(prompts, answers, strict=True)) + "\n")
        return path, prompts

    def _answer(self, prompt: str) -> str:
        assert self.h.max_tokens is not None
        tokens = self.tokenizer(prompt, return_tensors="pt").to(self.device)
        room = self.h.max_tokens - tokens["input_ids"].shape[1]
        output = self.model.generate(
            **tokens,
            do_sample=False,
            max_new_tokens=min(PREVIEW_TOKENS, room),
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.eos_token_id,
        )
        return str(self.tokenizer.decode(output[0, tokens["input_ids"].shape[1] :], skip_special_tokens=True))
