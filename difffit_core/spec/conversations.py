"""What a language model is taught and asked: messages. Torch-free."""

from collections.abc import Mapping
from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

Role = Literal["system", "user", "assistant", "tool"]


class Message(TypedDict):
    """One turn of a conversation."""

    role: Role
    content: str
    input: NotRequired[str]  # of an instruction: what it is about
    weight: NotRequired[Literal[0]]  # an answer that is said and not learned


def is_learned(message: Message) -> bool:
    return message["role"] == "assistant" and message.get("weight") != 0


def question(prompt: str) -> list[Message]:
    """A prompt alone."""
    return [{"role": "user", "content": prompt}]


def pair(prompt: str, answer: str) -> list[Message]:
    """A prompt with its answer; without a prompt all is learned."""
    asked = question(prompt) if prompt else []
    return [*asked, {"role": "assistant", "content": answer}]


def messages_of(row: Mapping[str, Any]) -> list[Message]:
    """Those of an index's row, which may also be of a `prompt` and an `answer`; none where it is of pictures."""
    if "answer" in row:
        return pair(row.get("prompt", ""), row["answer"])
    messages: list[Message] = row.get("messages", [])
    return messages
