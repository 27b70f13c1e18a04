"""Prompts as tensors: each alone, cut off where the encoder ends, with a mask where padding is no text."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from difffit_core.errors import ModelError
from difffit_core.families.text_encoders import EMBED_BATCH, cut_off, load_text_encoder, most_tokens
from difffit_core.spec.catalog import BaseModelEntry
from tests.difffit_core.spec_dirs import CPU

Bases = dict[str, BaseModelEntry]


@pytest.mark.parametrize("case", ["text-to-image", "text-to-image-pixart"])
def test_a_prompt_is_embedded_alike_alone_and_among_others_and_cut_off(tiny_bases: Bases, case: str) -> None:
    encoder = load_text_encoder(tiny_bases[case].path, CPU)
    prompts = ["", "a cat", *(f"no {number}" for number in range(EMBED_BATCH)), "x" * 400, "x" * 500]
    together, alone = encoder.embed(prompts), encoder.embed(["a cat"])
    for name, tensor in together.items():
        assert len(tensor) == len(prompts)
        torch.testing.assert_close(tensor[1], alone[name][0])
        assert torch.equal(tensor[-1], tensor[-2])
    assert ("text_mask" in together) == (case == "text-to-image-pixart")


def test_t5_sees_no_padding_and_no_capitals(tiny_bases: Bases) -> None:
    embedded = load_text_encoder(tiny_bases["text-to-image-pixart"].path, CPU).embed(["A Cat ", "a cat", ""])
    assert torch.equal(embedded["text"][0], embedded["text"][1])
    assert embedded["text_mask"].sum(dim=1).tolist() == [
        7,
        7,
        1,
    ]  # a word begins with a token of its own, and the prompt ends with one
    assert embedded["text"].shape[:2] == (3, 120)


@pytest.mark.parametrize("case", ["text-to-image", "text-to-image-pixart"])
def test_a_prompt_is_cut_off_where_its_last_word_makes_no_difference(tiny_bases: Bases, case: str) -> None:
    base = tiny_bases[case].path
    encoder, prompts = load_text_encoder(base, CPU), ["a " * count for count in range(most_tokens(base))]
    embedded = encoder.embed([prompt + end for prompt in prompts for end in ("b", "c")])["text"]
    alike = [prompt for row, prompt in enumerate(prompts) if torch.equal(embedded[2 * row], embedded[2 * row + 1])]
    assert cut_off(base, [prompt + "b" for prompt in prompts]) == [prompt + "b" for prompt in alike]
    assert 0 < len(alike) < len(prompts)


def test_an_unknown_encoder_is_refused_by_its_kind(tmp_path: Path, tiny_bases: Bases) -> None:
    shutil.copytree(tiny_bases["text-to-image"].path, tmp_path / "base")
    config = tmp_path / "base" / "text_encoder" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "bert"}))
    with pytest.raises(ModelError, match="'bert'"):
        load_text_encoder(tmp_path / "base", CPU)
