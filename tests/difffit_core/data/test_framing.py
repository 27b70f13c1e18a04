"""Frames: what a model is taught of a conversation, and that it is asked in the same words."""

from typing import Any

import pytest

from difffit_core.data.framing import FrameError, Framing
from difffit_core.spec.conversations import Message, pair, question
from tests.tiny_models import tiny_llama_tokenizer

# As published chat models have it: SmolLM2's, Llama 2's with its strictness, and one that forgets what tools say.
CHATML = (
    "{% for message in messages %}{% if loop.first and message.role != 'system' %}<|system|>be kind\n{% endif %}"
    "{{ '<|' + message.role + '|>' + message.content + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
STRICT = (
    "{{ bos_token }}{% for message in messages %}{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{{ ('[INST] ' + message.content | trim + ' [/INST]') if message.role == 'user' else (' ' + message.content + eos_token) }}"
    "{% endfor %}"
)
FORGETFUL = "{% for m in messages %}{% if m.role != 'tool' %}{{ m.role + ':' + m.content + eos_token }}{% endif %}{% endfor %}"
TALK: list[Message] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "See you"},
]
WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a response "
    "that appropriately completes the request.\n\n### Instruction:\nName the capital.\n\n### Input:\nFrance\n\n### Response:"
)
WITHOUT_INPUT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\nSay {hello}.\n\n### Response:"
)


@pytest.fixture
def tokenizer() -> Any:
    return tiny_llama_tokenizer()


def learned(framing: Framing, tokenizer: Any, messages: list[Message]) -> tuple[str, list[str]]:
    """All of a row as text, and its answers."""
    tokens, flags = framing.row(messages)
    answers, before = list[list[int]](), False
    for token, flag in zip(tokens, flags, strict=True):
        if flag and not before:
            answers.append([])
        if flag:
            answers[-1].append(token)
        before = flag
    return str(tokenizer.decode(tokens)), [str(tokenizer.decode(answer)) for answer in answers]


def test_alpacas_prompts_are_known_to_the_letter(tokenizer: Any) -> None:
    framing = Framing(tokenizer, "alpaca")
    capital: Message = {"role": "user", "content": "Name the capital.", "input": "France"}
    assert framing.text([capital], ask=True) == WITH_INPUT
    assert framing.text(question("Say {hello}."), ask=True) == WITHOUT_INPUT
    answered: list[Message] = [capital, {"role": "assistant", "content": "Paris"}]
    tokens, flags = framing.row(answered)
    assert tokens[: flags.index(True)] == tokenizer(WITH_INPUT).input_ids
    assert tokens[flags.index(True) :] == [*tokenizer("Paris", add_special_tokens=False).input_ids, tokenizer.eos_token_id]


def test_a_system_text_stands_before_alpacas_instruction(tokenizer: Any) -> None:
    text = Framing(tokenizer, "alpaca").text(TALK[:2], ask=True)
    assert text == "Be brief.\n\n### Instruction:\nHi\n\n### Response:"
    with pytest.raises(FrameError, match="role tool"):
        Framing(tokenizer, "alpaca").text([*TALK[:2], {"role": "tool", "content": "x"}], ask=True)


@pytest.mark.parametrize("frame", ["alpaca", "chat", "none"])
@pytest.mark.parametrize("template", [None, CHATML])
def test_every_answer_is_learned_in_one_row_with_its_end(tokenizer: Any, frame: Any, template: str | None) -> None:
    tokenizer.chat_template = template
    framing = Framing(tokenizer, frame)
    text, answers = learned(framing, tokenizer, TALK)
    assert [answer.strip() for answer in answers] == ["Hello</s>", "See you</s>"]
    assert text.endswith("See you</s>")
    silent: list[Message] = [*TALK[:2], {**TALK[2], "weight": 0}, *TALK[3:]]
    assert [answer.strip() for answer in learned(framing, tokenizer, silent)[1]] == ["See you</s>"]


@pytest.mark.parametrize("frame", ["alpaca", "chat", "none"])
@pytest.mark.parametrize("template", [None, CHATML])
def test_a_model_is_asked_with_the_tokens_that_it_learned_to_answer(tokenizer: Any, frame: Any, template: str | None) -> None:
    tokenizer.chat_template = template
    framing = Framing(tokenizer, frame)
    for answered in (TALK[:3], pair("Hi", "Hello")):
        tokens, flags = framing.row(answered)
        assert framing.asked(answered[:-1]) == tokens[: flags.index(True)]


def test_the_bases_own_template_is_used_and_headings_where_it_has_none(tokenizer: Any) -> None:
    assert Framing(tokenizer, "chat").text(TALK[1:2], ask=True) == "### User:\nHi\n\n### Assistant:\n"
    tokenizer.chat_template = CHATML
    assert Framing(tokenizer, "chat").text(TALK[1:2], ask=True) == "<|system|>be kind\n<|user|>Hi</s>\n<|assistant|>"
    assert Framing(tokenizer, "none").text(TALK[1:2], ask=True) == "Hi"
    asked: Message = {"role": "user", "content": "Name the capital.", "input": "France"}
    assert "Name the capital.\n\nFrance" in Framing(tokenizer, "chat").text([asked], ask=True)


def test_a_text_begins_as_the_tokenizer_says_and_once(tokenizer: Any) -> None:
    for frame in ("alpaca", "chat", "none"):
        assert Framing(tokenizer, frame).row(TALK)[0].count(tokenizer.bos_token_id) == 1
    tokenizer.chat_template = STRICT
    strict = Framing(tokenizer, "chat")
    assert strict.row(TALK[1:])[0].count(tokenizer.bos_token_id) == 1
    assert strict.asked(TALK[1:2])[0] == tokenizer.bos_token_id


def test_a_text_without_a_prompt_is_learned_as_a_whole(tokenizer: Any) -> None:
    tokens, flags = Framing(tokenizer, "none").row(pair("", "Once upon a time"))
    assert (flags, tokens[0]) == ([False, *[True] * (len(flags) - 1)], tokenizer.bos_token_id)


def test_what_a_template_refuses_or_leaves_out_is_said(tokenizer: Any) -> None:
    tokenizer.chat_template = STRICT
    with pytest.raises(FrameError, match="roles must alternate"):
        Framing(tokenizer, "chat").row(TALK)
    tokenizer.chat_template = FORGETFUL
    with pytest.raises(FrameError, match="leaves out a message of the role tool"):
        Framing(tokenizer, "chat").row([*TALK[:2], {"role": "tool", "content": "rain"}, *TALK[2:]])
    tokenizer.chat_template = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(FrameError, match="rewrites what was said before"):
        Framing(tokenizer, "chat").row(TALK)
