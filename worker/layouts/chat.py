"""Conversations: `{"messages": [{"role", "content"}, …]}`. Each answer is an example; what was said before it is its prompt."""

from typing import Any

from worker.layouts.files import Files
from worker.layouts.layout import MAX_PROMPT, Format, Layout
from worker.layouts.text_rows import BadRow, first_rows, is_text_upload, read_rows, text_of

NAMES = {"system": "System", "user": "User", "assistant": "Assistant"}


def read(files: Files, layout: Layout) -> None:
    for source, number, row in read_rows(files, layout):
        try:
            examples = _examples(row)
        except BadRow as error:
            layout.refuse_row(source, number, str(error), "invalid_row")
        else:
            for prompt, answer in examples:
                layout.add_text(f"{source}:{number}", prompt, answer)


def _examples(row: dict[str, Any]) -> list[tuple[str, str]]:
    """(prompt, answer) of each turn of the assistant; one of weight 0 is said before others, and nothing more."""
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRow("The field `messages` is missing, or no list of messages.")
    said, roles, examples = "", list[str](), []
    for place, message in enumerate(messages):
        role, content = _message(message, f"messages[{place}]", roles)
        heading = f"### {NAMES[role]}:\n"
        if role == "assistant" and message.get("weight") != 0:
            examples.append((said + heading, content))
        said += f"{heading}{content}\n\n"
        roles.append(role)
        if len(said) > MAX_PROMPT:
            raise BadRow(f"`messages` has more than {MAX_PROMPT} characters. Split the conversation.")
    if roles[-1] != "assistant":
        raise BadRow(f"`messages[{len(roles) - 1}]` has no answer: the last message has to be of the role assistant.")
    if not examples:
        raise BadRow("Every answer in `messages` has the weight 0.")
    return examples


def _message(message: Any, path: str, roles: list[str]) -> tuple[str, str]:
    """Its role and what it says; `roles` are those of the messages before it."""
    if not isinstance(message, dict):
        raise BadRow(f"`{path}` is no object with `role` and `content`.")
    role = text_of(message, "role", f"{path}.")
    if role not in NAMES:
        raise BadRow(f"`{path}.role` is {role[:40]!r}; conversations have the roles {', '.join(NAMES)}.")
    if role == "system" and roles:
        raise BadRow(f"`{path}` is of the role system, which only the first message can have.")
    if role == "assistant" and "user" not in roles:
        raise BadRow(f"`{path}` answers nobody: a message of the role user has to come first.")
    return role, text_of(message, "content", f"{path}.")


def _fits(files: Files) -> bool:
    return is_text_upload(files) and any("messages" in row for row in first_rows(files))


FORMAT = Format("chat", marks=((),), read=read, fits=_fits)
