"""The word that stands for a DreamBooth adapter's subject, and the adapter's tensors that belong to the text encoder."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from difffit_core.adapters.file import Adapter
from difffit_core.adapters.fitting import inject
from difffit_core.adapters.merging import MERGEABLE, merge
from difffit_core.errors import AdapterError, SpecError
from difffit_core.families.registry import family_of
from difffit_core.families.text_encoders import TextEncoder, load_text_encoder
from difffit_core.tasks.config import DreamBoothConfig

PREFIX = "text_encoder."  # of the tensors that do not belong to the network
SUBJECT = "text_encoder.subject"  # the word's embedding `[D]`


class SubjectEmbedding(nn.Module):
    """A frozen token table with one token behind its last, whose embedding is trained."""

    def __init__(self, table: nn.Embedding, subject: Tensor) -> None:
        super().__init__()
        self.table = table
        self.subject = nn.Parameter(subject)

    def forward(self, tokens: Tensor) -> Tensor:  # [B, L] -> [B, L, D]
        last = self.table.num_embeddings - 1
        known: Tensor = self.table(tokens.clamp(max=last))
        return torch.where((tokens > last)[..., None], self.subject.to(known.dtype), known)


def add_trained_subject(tokenizer: Any, encoder: Any, config: DreamBoothConfig) -> nn.Parameter:
    """Give both the identifier, which starts from the mean of the subject's own tokens; returns the embedding to train.

    Raises SpecError (`token_exists`) where the tokenizer has the identifier already.
    """
    table = encoder.get_input_embeddings()
    start = table.weight[tokenizer(config.subject, add_special_tokens=False).input_ids].mean(dim=0)
    _add_token(tokenizer, config, len(table.weight))
    embedding = SubjectEmbedding(table, start.detach().clone())
    encoder.set_input_embeddings(embedding)
    return embedding.subject


def add_subject(tokenizer: Any, encoder: Any, adapter: Adapter) -> None:
    """Give both the adapter's word with its embedding, as a stock tokenizer and encoder hold it.

    Raises SpecError (`token_exists`), and AdapterError where the embedding is missing or of another width.
    """
    config = adapter.header.task
    assert isinstance(config, DreamBoothConfig)
    table = encoder.get_input_embeddings().weight
    subject = adapter.tensors.get(SUBJECT)
    if subject is None or subject.shape != table.shape[1:]:
        found = "no embedding" if subject is None else f"one of {list(subject.shape)}"
        raise AdapterError(
            f"The adapter has {found} for its word; the text encoder takes [{table.shape[1]}].",
            code="adapter_mismatch",
            param=SUBJECT,
        )
    _add_token(tokenizer, config, len(table))
    grown = torch.cat([table.detach(), subject[None].to(table)])
    encoder.set_input_embeddings(nn.Embedding(len(grown), grown.shape[1], _weight=grown).requires_grad_(False))
    encoder.config.vocab_size = len(grown)


def _add_token(tokenizer: Any, config: DreamBoothConfig, expected: int) -> None:
    config.check_new(tokenizer.get_vocab())
    tokenizer.add_tokens([config.identifier])
    if tokenizer.convert_tokens_to_ids(config.identifier) != expected:
        raise SpecError(
            f"The tokenizer cannot take {config.identifier!r} as a word. Choose another identifier, such as <subject>.",
            code="token_exists",
            param="task.identifier",
        )


def text_encoder_with(adapter: Adapter, base: Path, device: torch.device, strength: float = 1.0) -> TextEncoder:
    """The base's text encoder with the adapter's word, and merged into it what else the adapter trained there.

    The word is the trained one at any strength: the base has none to start from. Raises what `add_subject` and `merge` do.
    """
    text = load_text_encoder(base, torch.device("cpu"))
    trained = text_encoder_part(adapter, text.encoder)
    if trained is not None:
        if trained.header.method.type in MERGEABLE or strength != 1:
            merge(text.encoder, trained, strength)
        else:
            inject(text.encoder, trained)
    add_subject(text.tokenizer, text.encoder, adapter)
    text.encoder.eval()
    text.to(device)
    return text


def network_part(adapter: Adapter) -> Adapter:
    """The adapter without what belongs to the text encoder."""
    return Adapter(adapter.header, {n: t for n, t in adapter.tensors.items() if not n.startswith(PREFIX)})


def text_encoder_part(adapter: Adapter, encoder: nn.Module) -> Adapter | None:
    """What the method trained in the text encoder, as an adapter on that alone; None where it trained nothing there."""
    tensors = {n.removeprefix(PREFIX): t for n, t in adapter.tensors.items() if n.startswith(PREFIX) and n != SUBJECT}
    return Adapter(replace(adapter.header, family=family_of(encoder)), tensors) if tensors else None
