"""Conversations: `{"messages": [{"role", "content"}, …]}`, or as ShareGPT has them `{"conversations": [{"from", "value"}, …]}`.

Also a prompt and its completion that are lists of messages each.
"""

import json
from typing import Any

from difffit_core.spec.conversations import Message, Role, is_learned
from worker.datasets.layouts.files import Files
from worker.datasets.layouts.layout import MAX_PROMPT, Format, Layout, readable
from worker.datasets.layouts.text_rows import (
    CONVERSATIONS,
    NO_TOOLS,
    BadRow,
    Row,
    first_rows,
    is_empty,
    is_text_upload,
    read_conversations,
    text_of,
)

MAX_MESSAGES = 1000  # of a conversation: what is learned of it is looked for answer by answer
ROLES: dict[str, Role] = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "model", "bot"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation"), "tool"),
}
ROLE, CONTENT = ("role", "from"), ("content", "value")
CALLS = ("tool_calls", "function_call")  # of a message
PAIR = ("prompt", "completion")


def read(files: Files, layout: Layout) -> None:
    read_conversations(files, layout, _messages)


def _messages(row: Row) -> list[Message]:
    if _is_pair(row.fields):
        before, after = (_conversation(row, name) for name in PAIR)
        messages = [*(_said(message) for message in before), *after]
        field = PAIR[1]
    else:
        field = row.name(CONVERSATIONS) or CONVERSATIONS[0]
        messages = _conversation(row, field)
    system = row.system()
    if system and messages[0]["role"] == "system":
        if messages[0]["content"] != system[0]["content"]:
            raise BadRow(f"The row has two system messages, one beside `{field}` and one in it. Keep one.")
        system = []
    if messages[-1]["role"] != "assistant":
        raise BadRow(f"`{field}[{len(messages) - 1}]` has no answer: the last message has to be of the role assistant.")
    if not any(is_learned(message) for message in messages):
        raise BadRow(f"Every answer in `{field}` has the weight 0.")
    if sum(len(message["content"]) for message in messages) > MAX_PROMPT:
        raise BadRow(f"`{field}` has more than {MAX_PROMPT} characters. Split the conversation.")
    return [*system, *messages]


def _said(message: Message) -> Message:
    """Of a prompt, which is not learned."""
    return {**message, "weight": 0} if message["role"] == "assistant" else message


def _conversation(row: Row, field: str) -> list[Message]:
    """The messages that say something."""
    row.name((field,))
    given = row.fields.get(field)
    if isinstance(given, str):  # a cell of a table
        try:
            given = json.loads(given)
        except (ValueError, RecursionError):
            given = None
    if not isinstance(given, list) or not given:
        raise BadRow(f"The field `{field}` is missing, or no list of messages.")
    if len(given) > MAX_MESSAGES:
        raise BadRow(f"`{field}` has more than {MAX_MESSAGES} messages. Split the conversation.")
    found = [_message(row, message, field, place) for place, message in enumerate(given)]
    messages = [message for message in found if message is not None]
    if not messages:
        raise BadRow(f"`{field}` says nothing.")
    return messages


def _message(row: Row, message: Any, field: str, place: int) -> Message | None:
    """None of a system message without content. Raises BadRow."""
    path, own = f"{field}[{place}]", int(field == "conversations")
    if not isinstance(message, dict):
        raise BadRow(f"`{path}` is no object with `{ROLE[own]}` and `{CONTENT[own]}`.")
    role_field, content_field = (next((n for n in names if n in message), names[own]) for names in (ROLE, CONTENT))
    given = text_of(message, role_field, f"{path}.")
    role = ROLES.get(given.strip().lower())
    if role is None:
        raise BadRow(f"`{path}.{role_field}` is {readable(given)!r}; conversations have the roles {', '.join(ROLES)}.")
    if calls := next((name for name in CALLS if not is_empty(message.get(name))), None):
        raise BadRow(NO_TOOLS.format(f"{path}.{calls}"))
    said = message | {content_field: _joined_parts(message.get(content_field), f"{path}.{content_field}")}
    if role == "system" and is_empty(said[content_field]):
        return None
    found: Message = {"role": role, "content": text_of(said, content_field, f"{path}.")}
    weight = message.get("weight")
    if weight not in (None, 0, 1):
        raise BadRow(f"`{path}.weight` is neither 0 nor 1, and answers are learned or not.")
    if weight == 0 and role == "assistant":
        found["weight"] = 0
    known = {role_field, content_field, "weight", *CALLS}
    row.unknown_within |= {f"{field}[].{name}" for name, value in message.items() if name not in known and not is_empty(value)}
    return found


def _joined_parts(content: Any, path: str) -> Any:
    """A content that is a list of texts as one. Raises BadRow for a part that is none."""
    if not isinstance(content, list):
        return content
    texts = []
    for place, part in enumerate(content):
        text = part.get("text") if isinstance(part, dict) and part.get("type", "text") == "text" else part
        if not isinstance(text, str):
            raise BadRow(f"`{path}` is no text: its part {place} is something else.")
        texts.append(text)
    return "".join(texts)


def _is_pair(fields: dict[str, Any]) -> bool:
    return all(isinstance(fields.get(name), list) for name in PAIR)


def _fits(files: Files) -> bool:
    return is_text_upload(files) and any(_is_pair(row) or not set(CONVERSATIONS).isdisjoint(row) for row in first_rows(files))


FORMAT = Format("chat", marks=((),), read=read, fits=_fits, frame="chat")
