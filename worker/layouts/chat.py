"""Conversations, whose answers are examples each: what was said before an answer is its prompt.

A row is `{"messages": [{"role", "content"}, …]}`, or as ShareGPT has it `{"conversations": [{"from", "value"}, …]}`.
"""

from dataclasses import dataclass
from typing import Any

from worker.layouts.files import Files
from worker.layouts.layout import MAX_PROMPT, Format, Layout
from worker.layouts.text_rows import BadRow, first_rows, is_text_upload, read_rows, text_of

NAMES = {"system": "System", "user": "User", "assistant": "Assistant"}


@dataclass(frozen=True)
class Style:
    """What the fields of a row are called, and the roles that have names of their own."""

    messages: str
    role: str
    content: str
    roles: dict[str, str]


STYLES = (
    Style("messages", "role", "content", {}),
    Style("conversations", "from", "value", {"human": "user", "gpt": "assistant"}),
)


def read(files: Files, layout: Layout) -> None:
    for source, number, row in read_rows(files, layout):
        try:
            examples = _examples(row, next((style for style in STYLES if style.messages in row), STYLES[0]))
        except BadRow as error:
            layout.refuse_row(source, number, str(error), "invalid_row")
        else:
            for prompt, answer in examples:
                layout.add_text(f"{source}:{number}", prompt, answer)


def _examples(row: dict[str, Any], style: Style) -> list[tuple[str, str]]:
    """(prompt, answer) of each turn of the assistant; one of weight 0 is said before others, and nothing more."""
    field = style.messages
    messages = row.get(field)
    if not isinstance(messages, list) or not messages:
        raise BadRow(f"The field `{field}` is missing, or no list of messages.")
    said, roles, examples = "", list[str](), []
    for place, message in enumerate(messages):
        role, content = _message(message, f"{field}[{place}]", style, roles)
        heading = f"### {NAMES[role]}:\n"
        if role == "assistant" and message.get("weight") != 0:
            examples.append((said + heading, content))
        said += f"{heading}{content}\n\n"
        roles.append(role)
        if len(said) > MAX_PROMPT:
            raise BadRow(f"`{field}` has more than {MAX_PROMPT} characters. Split the conversation.")
    if roles[-1] != "assistant":
        raise BadRow(f"`{field}[{len(roles) - 1}]` has no answer: the last message has to be of the role assistant.")
    if not examples:
        raise BadRow(f"Every answer in `{field}` has the weight 0.")
    return examples


def _message(message: Any, path: str, style: Style, roles: list[str]) -> tuple[str, str]:
    """Its role and what it says; `roles` are those of the messages before it."""
    if not isinstance(message, dict):
        raise BadRow(f"`{path}` is no object with `{style.role}` and `{style.content}`.")
    given = text_of(message, style.role, f"{path}.")
    role = style.roles.get(given, given)
    if role not in NAMES:
        known = ", ".join([*NAMES, *style.roles])
        raise BadRow(f"`{path}.{style.role}` is {given[:40]!r}; conversations have the roles {known}.")
    if role == "system" and roles:
        raise BadRow(f"`{path}` is of the role system, which only the first message can have.")
    if role == "assistant" and "user" not in roles:
        raise BadRow(f"`{path}` answers nobody: a message of the role user has to come first.")
    return role, text_of(message, style.content, f"{path}.")


def _fits(files: Files) -> bool:
    return is_text_upload(files) and any(style.messages in row for row in first_rows(files) for style in STYLES)


FORMAT = Format("chat", marks=((),), read=read, fits=_fits)
