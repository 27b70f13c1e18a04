"""Texts: greedy ones are the stock library's, drawn ones depend on their own seed alone, and they can be read as they grow."""

from collections import Counter
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from difffit_core.errors import SpecError
from difffit_core.sampling.language import choose
from difffit_core.sampling.registry import load_generator
from difffit_core.spec.catalog import BaseModelEntry
from difffit_core.spec.generation import TextGenerationSpec

Bases = dict[str, BaseModelEntry]


def spec(**changes: Any) -> TextGenerationSpec:
    values = {"prompts": ["1 + 1 = ", "say"], "max_tokens": 12, "temperature": 0.0, "top_p": 1.0, "seed": 3}
    return TextGenerationSpec.model_validate(values | changes)


def test_a_greedy_answer_is_that_of_stock_generate(tiny_bases: Bases) -> None:
    base = tiny_bases["instruction"]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base.path), AutoTokenizer.from_pretrained(base.path)
    expected = []
    for prompt in spec().prompts:
        tokens = tokenizer(prompt, return_tensors="pt")
        output = model.generate(**tokens, do_sample=False, max_new_tokens=12, pad_token_id=tokenizer.eos_token_id)
        expected.append(tokenizer.decode(output[0, tokens.input_ids.shape[1] :], skip_special_tokens=True))
    assert [answer.text for answer in load_generator(base, "cpu").texts(spec())] == expected


def test_a_prompt_stands_in_its_frame_and_messages_are_gone_on_with(tiny_bases: Bases) -> None:
    generator = load_generator(tiny_bases["instruction"], "cpu")
    (framed,) = generator.texts(spec(prompts=["Hi"], frame="alpaca"))
    typed = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    typed += "### Instruction:\nHi\n\n### Response:"
    assert generator.texts(spec(prompts=[typed])) == [framed]
    talk = [{"role": "system", "content": "S"}, {"role": "user", "content": "Hi"}]
    answers = generator.texts(spec(prompts=[], messages=talk, frame="chat", n=2, temperature=1.0))
    assert answers == generator.texts(
        spec(prompts=["### System:\nS\n\n### User:\nHi\n\n### Assistant:\n"] * 2, temperature=1.0)
    )
    with pytest.raises(SpecError, match="role tool") as caught:
        generator.texts(spec(prompts=[], messages=[{"role": "tool", "content": "x"}], frame="alpaca"))
    assert (caught.value.code, caught.value.param) == ("frame_refused", "messages")


def test_a_drawn_answer_depends_on_its_own_seed_and_prompt_only(tiny_bases: Bases) -> None:
    generator = load_generator(tiny_bases["instruction"], "cpu")
    one, two = generator.texts(spec(temperature=1.0))
    assert [one, two] == generator.texts(spec(temperature=1.0))
    assert generator.texts(spec(temperature=1.0, prompts=["say"], seed=4)) == [two]
    assert generator.texts(spec(temperature=1.0, prompts=["say"], seed=5)) != [two]


def test_an_answer_can_be_read_as_it_grows(tiny_bases: Bases) -> None:
    """Bytes of a character that is not whole yet are held back."""
    generator, pieces = load_generator(tiny_bases["instruction"], "cpu"), []
    answers = generator.texts(spec(temperature=1.0), lambda number, text: pieces.append((number, text)))
    assert ["".join(text for number, text in pieces if number == i) for i in (0, 1)] == [answer.text for answer in answers]
    assert [number for number, _ in pieces] == sorted(number for number, _ in pieces)
    assert len(pieces) > 4
    assert all(text for _, text in pieces)


def test_an_answer_ends_with_the_end_token_or_where_it_may_be_no_longer(tiny_bases: Bases) -> None:
    generator = load_generator(tiny_bases["instruction"], "cpu")
    first = generator.texts(spec(prompts=["say"], max_tokens=1))
    assert (first[0].tokens, first[0].finished) == (1, False)
    end = generator.tokenizer(first[0].text, add_special_tokens=False).input_ids[-1]  # type: ignore[attr-defined]
    generator.network.generation_config.eos_token_id = [2, end]
    assert generator.texts(spec(prompts=["say"])) == [("", 0, True)]


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "code", "param", "words"),
    [
        ("x" * 260, 1, "prompt_too_long", "prompts", "has 262 tokens, and the model reads 256"),
        ("x" * 254, 1, "prompt_too_long", "prompts", "has 256 tokens, and the model reads 256"),
        ("x" * 253, 2, "context_exceeded", "max_tokens", "has 255 tokens; with max_tokens 2 .* 256 .* Ask for 1 at most"),
        ("say", 252, "context_exceeded", "max_tokens", "has 5 tokens; with max_tokens 252 .* Ask for 251 at most"),
    ],
)
def test_a_prompt_and_its_answer_have_to_fit_into_the_context(
    tiny_bases: Bases, prompt: str, max_tokens: int, code: str, param: str, words: str
) -> None:
    heard: list[str] = []
    generator, asked = load_generator(tiny_bases["instruction"], "cpu"), spec(prompts=["say", prompt], max_tokens=max_tokens)
    with pytest.raises(SpecError, match=words) as caught:
        generator.texts(asked, lambda _, text: heard.append(text))
    assert (caught.value.code, caught.value.param, heard) == (code, param, [])


def test_whoever_does_not_say_how_long_gets_what_has_room(tiny_bases: Bases) -> None:
    generator = load_generator(tiny_bases["instruction"], "cpu")
    generator.network.generation_config.eos_token_id = None
    generator.tokenizer.eos_token = None  # type: ignore[attr-defined]
    for prompt, tokens in (("say", 251), ("x" * 253, 1)):
        (answer,) = generator.texts(spec(prompts=[prompt], max_tokens=None))
        assert (answer.tokens, answer.finished) == (tokens, False)
    assert generator.texts(spec(prompts=["say"], max_tokens=251)) == generator.texts(spec(prompts=["say"], max_tokens=None))


def test_a_picture_model_writes_no_texts(tiny_bases: Bases) -> None:
    with pytest.raises(SpecError, match="no texts"):
        load_generator(tiny_bases["text-to-image"], "cpu").texts(spec())


def test_drawing_keeps_to_the_likeliest_tokens_in_their_shares() -> None:
    logits = torch.tensor([0.5, 0.2, 0.2, 0.1]).log()
    random = torch.Generator().manual_seed(0)
    assert {choose(logits, 0.0, 1.0, random) for _ in range(5)} == {0}
    drawn = Counter(choose(logits, 1.0, 0.6, random) for _ in range(2000))
    assert drawn.keys() == {0, 1}  # half is not enough, the next token makes it up
    assert abs(drawn[0] / 2000 - 5 / 7) < 0.05
    hot, cold = (Counter(choose(logits, t, 1.0, random) for _ in range(2000)) for t in (2.0, 0.5))
    assert hot[0] < 1000 < cold[0]
