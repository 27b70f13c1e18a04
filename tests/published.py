"""Folders of tiny models rewritten as the repositories on the Hub have them, which older libraries wrote."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from sentencepiece import SentencePieceTrainer
from torch import Tensor

from difffit_core.spec.catalog import Family

# What Transformer2DModel wrote for every model that it could be; those that are told apart today have fewer.
ONE_TRANSFORMER: dict[str, Any] = {
    "_class_name": "Transformer2DModel",
    "_diffusers_version": "0.22.0.dev0",
    "attention_type": "default",
    "double_self_attention": False,
    "num_vector_embeds": None,
    "only_cross_attention": False,
    "use_linear_projection": False,
}
OLD_ATTENTION = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
SENTENCES = ["a red cat sits on the mat", "two dogs run in the rain", "the sky is blue, a star, no 1", "green apples; 3 pears?"]


def as_published(folder: Path, family: Family) -> None:
    """Rewrite a base's folder in place; no weight changes its value, and a T5 gets another vocabulary."""
    match family:
        case "dit":
            _edit(folder / "transformer" / "config.json", **ONE_TRANSFORMER)
            _edit(folder / "model_index.json", transformer=["diffusers", "Transformer2DModel"])
        case "pixart":
            _edit(folder / "transformer" / "config.json", **ONE_TRANSFORMER)
            _edit(folder / "model_index.json", transformer=["diffusers", "Transformer2DModel"])
            _write_sentencepiece(folder / "tokenizer")
        case "llama":
            _rewrite(folder / "model.safetensors", more=_rotary_tables(folder))
            config = {"torch_dtype": "float32", "max_sequence_length": 256, "transformers_version": "4.28.0.dev0"}
            _edit(folder / "config.json", drop=("dtype", "rope_parameters"), **config)
        case "stable-diffusion" | "controlnet":
            _age_stable_diffusion(folder)


def _age_stable_diffusion(folder: Path) -> None:
    text = folder / "text_encoder"
    positions = torch.arange(json.loads((text / "config.json").read_text())["max_position_embeddings"])
    more = {"text_model.embeddings.position_ids": positions[None]}
    _rewrite(text / "model.safetensors", lambda name: f"text_model.{name}", more)
    _edit(text / "config.json", drop=("dtype",), torch_dtype="float32", transformers_version="4.22.0.dev0")
    _split_clip_tokenizer(folder / "tokenizer")
    _rewrite(folder / "vae" / "diffusion_pytorch_model.safetensors", _old_attention)
    _edit(folder / "scheduler" / "scheduler_config.json", _class_name="PNDMScheduler", skip_prk_steps=True)
    _edit(folder / "model_index.json", drop=("image_encoder",), scheduler=["diffusers", "PNDMScheduler"])


def _split_clip_tokenizer(folder: Path) -> None:
    """A vocabulary and its merges in two files, special tokens in a third."""
    whole = folder / "tokenizer.json"
    model = json.loads(whole.read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(" ".join(pair) + "\n" for pair in model["merges"]))
    end = "<|endoftext|>"
    special = {"bos_token": "<|startoftext|>", "eos_token": end, "pad_token": end, "unk_token": end}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    _edit(folder / "tokenizer_config.json", drop=("backend",), do_lower_case=True, add_prefix_space=False, errors="replace")
    whole.unlink()


def _write_sentencepiece(folder: Path) -> None:
    """T5's vocabulary as SentencePiece writes it, with no tokenizer.json beside it."""
    written = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 20),
        model_writer=written,
        vocab_size=60,
        hard_vocab_limit=False,
        minloglevel=2,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
    )
    (folder / "spiece.model").write_bytes(written.getvalue())
    (folder / "tokenizer.json").unlink()
    special = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    _edit(folder / "tokenizer_config.json", drop=("backend", "extra_special_tokens"), legacy=True, sp_model_kwargs={})


def _rotary_tables(folder: Path) -> dict[str, Tensor]:
    """What is computed today was stored with each layer."""
    config = json.loads((folder / "config.json").read_text())
    return {
        f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(config["head_dim"] // 2)
        for i in range(config["num_hidden_layers"])
    }


def _old_attention(name: str) -> str:
    if ".attentions." in name:
        for new, old in OLD_ATTENTION.items():
            name = name.replace(new, old)
    return name


def _rewrite(weights: Path, rename: Callable[[str], str] = str, more: dict[str, Tensor] | None = None) -> None:
    tensors = {rename(name): tensor for name, tensor in load_file(weights).items()}
    save_file(tensors | (more or {}), weights, {"format": "pt"})


def _edit(path: Path, drop: tuple[str, ...] = (), **values: Any) -> None:
    content = {key: value for key, value in json.loads(path.read_text()).items() if key not in drop}
    path.write_text(json.dumps(content | values))
