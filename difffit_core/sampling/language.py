"""Texts of a language model: token after token, from random numbers that are each prompt's own."""

import re
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from difffit_core.data.framing import FrameError, Framing
from difffit_core.errors import SpecError
from difffit_core.families.networks import load_tokenizer
from difffit_core.runtime.devices import inference_autocast
from difffit_core.sampling.context import room
from difffit_core.sampling.generator import Generator, OnText, Text
from difffit_core.spec.catalog import BaseModelEntry
from difffit_core.spec.generation import TextGenerationSpec

BYTE = re.compile("<0x[0-9A-F]{2}>")  # a token that stands for one byte
UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # what a character is decoded to while some of its bytes are missing


class LanguageGenerator(Generator):
    """One prompt after the other, so that no answer depends on another."""

    def __init__(self, base: BaseModelEntry, device: str = "auto") -> None:
        super().__init__(base, device)
        self.tokenizer = load_tokenizer(base.path)

    def texts(self, spec: TextGenerationSpec, on_text: OnText | None = None) -> list[Text]:
        """As `Generator.texts`. An answer ends with the model's end token, or after `max_tokens`.

        Before the first word a SpecError says which prompt has no room in the model's context for such an answer, or that
        the frame has no place for a message (`frame_refused`).
        """
        self.use(self._adapter, spec.adapter_strength)
        framing = Framing(self.tokenizer, spec.frame)
        try:
            prompts = [torch.tensor([framing.asked(messages)]) for messages in spec.conversations]  # [1, L] each
        except FrameError as error:
            raise SpecError(f"This cannot be asked: {error}.", code="frame_refused", param="messages") from error
        context = self.network.config.max_position_embeddings
        rooms = [
            room(messages[-1]["content"], tokens.shape[1], spec.max_tokens, context, param=spec.asked_by)
            for messages, tokens in zip(spec.conversations, prompts, strict=True)
        ]
        answers = []
        for number, (tokens, most) in enumerate(zip(prompts, rooms, strict=True)):
            with torch.inference_mode(), inference_autocast(self.device):
                answers.append(answer(self.network, self.tokenizer, tokens, most, spec, number, on_text))
        return answers


def answer(
    model: Any, tokenizer: Any, prompt: Tensor, most: int, spec: TextGenerationSpec, number: int, on_text: OnText | None = None
) -> Text:
    """The answer of `most` tokens at most to a prompt's tokens `[1, L]`, number `number` of `spec`."""
    tokens = prompt.to(model.device)
    random = torch.Generator().manual_seed(spec.seed + number)
    ends, cache = end_tokens(model, tokenizer), DynamicCache()
    chosen: list[int] = []
    told, finished = "", False
    for _ in range(most):
        logits = model(tokens, cache=cache, use_cache=True).logits[0, -1].float().cpu()  # [V]
        token = choose(logits, spec.temperature, spec.top_p, random)
        if token in ends:
            finished = True
            break
        chosen.append(token)
        tokens = torch.tensor([[token]], device=model.device)
        if on_text is not None and is_whole(tokenizer, chosen):
            told = _tell(on_text, number, told, decoded(tokenizer, chosen))
    text = decoded(tokenizer, chosen)
    if on_text is not None:
        _tell(on_text, number, told, text)
    return Text(text, len(chosen), finished)


def is_whole(tokenizer: Any, tokens: list[int]) -> bool:
    """Whether later tokens cannot change how these are decoded: they do not end within a character.

    A run of tokens that are single bytes is decoded as a whole, and one wrong byte in it spoils all.
    """
    is_byte = BYTE.fullmatch(tokenizer.convert_ids_to_tokens(tokens[-1]))
    return not is_byte and not decoded(tokenizer, tokens).endswith(UNFINISHED)


def _tell(on_text: OnText, number: int, told: str, text: str) -> str:
    if text != told:
        on_text(number, text[len(told) :])
    return text


def end_tokens(model: Any, tokenizer: Any) -> set[int]:
    """What ends an answer: the tokenizer's end token, and those that the model's generation config names."""
    configured = model.generation_config.eos_token_id
    listed = configured if isinstance(configured, list) else [configured]
    return {token for token in (*listed, tokenizer.eos_token_id) if token is not None}


def choose(logits: Tensor, temperature: float, top_p: float, random: torch.Generator) -> int:
    """A token by its logits `[V]`: the likeliest at temperature 0, else drawn among the likeliest that together have `top_p`

    of the probability (nucleus sampling, Holtzman et al. 2020, arXiv 1904.09751).
    """
    if temperature == 0:
        return int(logits.argmax())
    probabilities, order = (logits / temperature).softmax(dim=0).sort(descending=True, stable=True)
    before = probabilities.cumsum(dim=0) - probabilities
    kept = torch.where(before < top_p, probabilities, 0.0)
    return int(order[torch.multinomial(kept, 1, generator=random)])


def decoded(tokenizer: Any, tokens: list[int]) -> str:
    return str(tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))
