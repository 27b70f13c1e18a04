"""The DiT family as diffusers stores it: load a base, tie its repeated conditioning, give it a new label space."""

import copy
import json
from collections.abc import Sequence, Sized
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DiTTransformer2DModel
from torch import Tensor, nn

from difffit_core.errors import ModelError
from difffit_core.runtime.cpu_kernels import attention, gelu_tanh
from difffit_core.runtime.fake_weights import has_numbers, load_pretrained

FORWARD_ARGUMENTS = ("hidden_states", "timestep", "class_labels", "cross_attention_kwargs", "return_dict")


def load_transformer(base: Path) -> DiTTransformer2DModel:
    """The transformer of a diffusers folder in fp32, its conditioning tied.

    Raises ModelError where it cannot be read, or its class table is smaller than the label space in `model_index.json`.
    """
    try:
        model: DiTTransformer2DModel = load_pretrained(DiTTransformer2DModel, base / "transformer", torch_dtype=torch.float32)
        labels = stored_labels(base)
    except (OSError, ValueError) as error:
        raise ModelError(f"The transformer of {base.name} cannot be loaded: {error}") from error
    tie_conditioning(model)
    check_label_space(model, labels)
    return model


def stored_labels(base: Path) -> dict[str, str]:
    """The label space in `model_index.json` of a diffusers folder, by class index; empty where there is none."""
    index = base / "model_index.json"
    labels: dict[str, str] = json.loads(index.read_text()).get("id2label", {}) if index.exists() else {}
    return labels


def load_autoencoder(base: Path) -> AutoencoderKL:
    """The frozen autoencoder of a diffusers folder in fp32; raises ModelError if it cannot be read."""
    try:
        model = AutoencoderKL.from_pretrained(base, subfolder="vae", torch_dtype=torch.float32, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise ModelError(f"The autoencoder of {base.name} cannot be loaded: {error}") from error
    return model.requires_grad_(False).eval()


def latent_scale(base: Path) -> tuple[float, int]:
    """By what the autoencoder's latents are multiplied, and how many channels they have."""
    try:
        config = dict(AutoencoderKL.load_config(base, subfolder="vae"))
    except (OSError, ValueError) as error:
        raise ModelError(f"The autoencoder of {base.name} cannot be loaded: {error}") from error
    return float(config["scaling_factor"]), int(config["latent_channels"])


def tie_conditioning(model: DiTTransformer2DModel) -> None:
    """Let every block use the first block's timestep MLP and class table, computed once a forward pass.

    diffusers keeps a copy of both in each block, although DiT has one of each; a DiffFit adapter must train one. The blocks
    get this project's attention and GELU, too, and their tokens laid out alike.
    Raises ModelError where the copies differ, since tying would then change the model. Tying twice is tying once.
    """
    first = model.transformer_blocks[0].norm1.emb
    if isinstance(first, TiedConditioning):
        return
    for index, block in enumerate(model.transformer_blocks[1:], start=1):
        copies = zip(first.parameters(), block.norm1.emb.parameters(), strict=True)
        if any(has_numbers(a) and not torch.equal(a, b) for a, b in copies):
            raise ModelError(f"Block {index} embeds timesteps or classes differently from block 0; this is not a DiT.")
    tied = TiedConditioning(first)
    for block in model.transformer_blocks:
        block.norm1.emb = tied
        block.attn1.set_processor(SelfAttention())
        if getattr(block.ff.net[0], "approximate", None) == "tanh":
            block.ff.net[0].gelu = gelu_tanh
    class_embedder(model).dropout_prob = 0.0  # labels are dropped by the trainer, from its own random numbers
    model.register_forward_pre_hook(embed_once, with_kwargs=True)
    model.pos_embed.register_forward_hook(as_every_block)


class TiedConditioning(nn.Module):
    """The timestep MLP and class table of all blocks, under diffusers' names. What is embedded already passes through."""

    def __init__(self, embedding: Any) -> None:
        super().__init__()
        self.time_proj = embedding.time_proj
        self.timestep_embedder = embedding.timestep_embedder
        self.class_embedder = embedding.class_embedder

    def forward(self, timestep: Tensor, class_labels: Tensor, hidden_dtype: torch.dtype | None = None) -> Tensor:
        """The conditioning `[B, D]` of timesteps and labels `[B]`; a timestep of shape `[B, D]` is one."""
        if timestep.ndim == 2:
            return timestep
        embedded: Tensor = self.timestep_embedder(self.time_proj(timestep).to(hidden_dtype)) + self.class_embedder(class_labels)
        return embedded


def embed_once(model: DiTTransformer2DModel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """Before a forward pass: put the conditioning in the place of the timesteps, which every block is handed.

    It travels as an argument, so that nothing is kept between passes and gradient checkpointing sees it as an input.
    """
    given = dict(zip(FORWARD_ARGUMENTS, args, strict=False)) | kwargs
    embedding = model.transformer_blocks[0].norm1.emb
    given["timestep"] = embedding(given["timestep"], given["class_labels"], hidden_dtype=model.dtype)
    return (), given


def as_every_block(_: nn.Module, __: tuple[Any, ...], tokens: Tensor) -> Tensor:
    """Tokens `[B, N, D]` in the order in memory in which every later block gets them: one compiled block serves them all."""
    return tokens.contiguous()


class SelfAttention:
    """An attention processor of diffusers for a DiT's blocks: attention among the tokens of one picture, without a mask."""

    def __call__(self, module: Any, tokens: Tensor, **_: Any) -> Tensor:  # [B, N, D] -> [B, N, D]
        query, key, value = (
            project(tokens).unflatten(-1, (module.heads, -1)).transpose(1, 2)  # [B, heads, N, D / heads]
            for project in (module.to_q, module.to_k, module.to_v)
        )
        mixed = attention(query, key, value).transpose(1, 2).flatten(2)
        output: Tensor = module.to_out[1](module.to_out[0](mixed))
        return output


def untie_conditioning(model: DiTTransformer2DModel) -> None:
    """Give each block a copy of the conditioning again: what stock diffusers saves and loads."""
    first = model.transformer_blocks[0].norm1.emb
    for block in model.transformer_blocks[1:]:
        block.norm1.emb = copy.deepcopy(first)


def class_embedder(model: DiTTransformer2DModel) -> Any:
    """The tied label embedding; its `embedding_table` is `[classes + 1, D]`, the last row is the null class."""
    return model.transformer_blocks[0].norm1.emb.class_embedder


def null_label(model: DiTTransformer2DModel) -> int:
    """The label that means "no class", which guidance and label dropout use."""
    return int(class_embedder(model).embedding_table.num_embeddings) - 1


def check_label_space(model: DiTTransformer2DModel, names: Sized) -> None:
    """Raise ModelError unless the class table has a row for each of `names`."""
    if len(names) > null_label(model):
        raise ModelError(
            f"transformer_blocks.0.norm1.emb.class_embedder.embedding_table has rows for {null_label(model)} classes, but the "
            f"model's labels are {len(names)}. Mend `id2label` in its model_index.json.",
            code="class_table_too_small",
            param="base_model",
        )


def replace_class_table(model: DiTTransformer2DModel, base_names: Sequence[str], new_names: Sequence[str]) -> int:
    """Give the model the label space `new_names`; return how many classes the base knew by name.

    A class of the same name keeps the base's row, any other starts from the mean of the base's rows; the null class stays.
    A model that has this label space stays as it is. Raises ModelError where the base's table is smaller than its own.
    """
    check_label_space(model, base_names)
    if not has_label_space(model, base_names, new_names):
        set_class_table(model, class_rows(class_embedder(model).embedding_table.weight.data, base_names, new_names))
    return len(set(base_names) & set(new_names))


def has_label_space(model: DiTTransformer2DModel, base_names: Sequence[str], names: Sequence[str]) -> bool:
    """Whether the class table of a base with `base_names` is that of `names`: a row for each and the null class, no others."""
    return list(names) == list(base_names) and null_label(model) == len(names)


def class_rows(base_rows: Tensor, base_names: Sequence[str], new_names: Sequence[str]) -> Tensor:
    """The class table `[new classes + 1, D]` that `replace_class_table` makes of the base's `[base classes + 1, D]`.

    A base may repeat its null class behind its named classes, as diffusers' pipeline needs where they are few.
    """
    rows = {name: base_rows[index] for index, name in enumerate(base_names)}
    mean = base_rows[: len(base_names) or -1].mean(dim=0)
    return torch.stack([*(rows.get(name, mean) for name in new_names), base_rows[-1]])


def set_class_table(model: DiTTransformer2DModel, table: Tensor) -> None:
    """Let the model use `table` `[classes + 1, D]`, the last row for the null class."""
    embedder = class_embedder(model)
    embedder.embedding_table = nn.Embedding(len(table), table.shape[1], _weight=table)
    embedder.num_classes = len(table) - 1
    model.register_to_config(num_embeds_ada_norm=len(table) - 1)
