"""The frame of a language model's prompts: messages become the one text, and the tokens, that it is taught or asked."""

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from jinja2 import TemplateError

from difffit_core.spec.conversations import Message, is_learned
from difffit_core.tasks.config import Frame

# Stanford Alpaca's prompts to the letter; a system message stands in place of their first sentence.
ALPACA = """\
{%- for message in messages -%}
{%- if loop.first -%}
{%- if message.role == 'system' -%}
{{ message.content + '\n\n' }}
{%- elif message.input -%}
{{ 'Below is an instruction that describes a task, paired with an input that provides further context. \
Write a response that appropriately completes the request.\n\n' }}
{%- else -%}
{{ 'Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n' }}
{%- endif -%}
{%- endif -%}
{%- if message.role == 'user' -%}
{{ '### Instruction:\n' + message.content + '\n\n' }}
{%- if message.input -%}
{{ '### Input:\n' + message.input + '\n\n' }}
{%- endif -%}
{%- elif message.role == 'assistant' -%}
{{ '### Response:' + message.content + eos_token + '\n\n' }}
{%- elif message.role != 'system' or not loop.first -%}
{{ raise_exception("Alpaca's frame has no place for a message of the role " + message.role + " there") }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '### Response:' }}
{%- endif -%}
""".replace("\\\n", "")
# Of conversations where the tokenizer has no chat template of its own.
HEADINGS = """\
{%- for message in messages -%}
{{ '### ' + message.role | capitalize + ':\n' + message.content }}
{%- if message.role == 'assistant' -%}
{{ eos_token }}
{%- endif -%}
{{ '\n\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '### Assistant:\n' }}
{%- endif -%}
"""
PLAIN = """\
{%- for message in messages -%}
{{ message.content }}
{%- if message.role == 'assistant' -%}
{{ eos_token }}
{%- endif -%}
{%- endfor -%}
"""
TEMPLATES: dict[Frame, str] = {"alpaca": ALPACA, "chat": HEADINGS, "none": PLAIN}


class FrameError(Exception):
    """A conversation does not fit the frame; says why."""


class Framing:
    """A tokenizer and a frame for it. `template` is None where that is the tokenizer's own chat template."""

    def __init__(self, tokenizer: Any, frame: Frame) -> None:
        self._tokenizer, self._frame = tokenizer, frame
        self.template = None if frame == "chat" and tokenizer.chat_template else TEMPLATES[frame]

    def text(self, messages: Sequence[Message], ask: bool = False) -> str:
        """All that is said, and where it is asked what an answer begins with. Raises FrameError."""
        said = [self._joined(message) for message in messages]
        try:
            rendered = self._tokenizer.apply_chat_template(
                said, chat_template=self.template, tokenize=False, add_generation_prompt=ask
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise FrameError(f"the frame {self._frame!r} of this base does not take it ({error!s:.200})") from error
        for message in said:
            if message["content"].strip() not in rendered:
                raise FrameError(f"the frame {self._frame!r} of this base leaves out a message of the role {message['role']}")
        return str(rendered)

    def _joined(self, message: Message) -> Message:
        """The message with its input in its content, unless the frame has a place for it."""
        if self._frame == "alpaca" or not message.get("input"):
            return message
        return {"role": message["role"], "content": f"{message['content']}\n\n{message['input']}"}

    def asked(self, messages: Sequence[Message]) -> list[int]:
        """The tokens after which the model answers. Raises FrameError."""
        begins = self.template is not None  # a chat template of the base writes what a text begins with itself
        tokens: list[int] = self._tokenizer(self.text(messages, ask=True), add_special_tokens=begins)["input_ids"]
        return tokens

    def row(self, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
        """The tokens up to the last answer's end, and which of them are learned: the answers'. Raises FrameError."""
        tokens: list[int] = []
        learned: list[bool] = []
        for number, (text, is_answer) in enumerate(self._pieces(messages)):
            begins = number == 0 and self.template is not None
            found = self._tokenizer(text, add_special_tokens=begins)["input_ids"]
            tokens += found
            learned += [is_answer] * len(found)
        return tokens, learned

    def _pieces(self, messages: Sequence[Message]) -> list[tuple[str, bool]]:
        """(text, whether it is an answer) in turn. An answer begins where the model is asked, and its end is a part of it."""
        whole, at, pieces = self.text(messages), 0, list[tuple[str, bool]]()
        for place, message in enumerate(messages):
            if not is_learned(message):
                continue
            until = whole if place == len(messages) - 1 else self.text(messages[: place + 1])
            if not whole.startswith(until):
                raise FrameError(f"the frame {self._frame!r} of this base rewrites what was said before")
            begin = self._begin(messages[:place], message, until)
            end = self._end(until, begin)
            pieces += [(whole[at:begin], False), (whole[begin:end], True)]
            at = end
        return pieces

    def _begin(self, before: Sequence[Message], answer: Message, until: str) -> int:
        """Where the answer at the end of `until` begins."""
        if not before:
            return until.index(answer["content"].strip())
        asked = self.text(before, ask=True)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(asked, until, strict=False)))

    def _end(self, until: str, begin: int) -> int:
        """Behind the end token, where there is one."""
        end = self._tokenizer.eos_token
        found = until.find(end, begin) if end else -1
        return len(until) if found < 0 else found + len(end)
