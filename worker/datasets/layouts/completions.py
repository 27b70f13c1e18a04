"""Texts without a frame: `prompt` and `completion`, of which the second is learned, or `text`, all of which is."""

from difffit_core.spec.conversations import Message, pair
from worker.datasets.layouts.files import Files
from worker.datasets.layouts.layout import Format, Layout
from worker.datasets.layouts.text_rows import SYSTEM, BadRow, Row, first_rows, is_text_upload, read_conversations

PROMPT, TEXT = "prompt", "text"
COMPLETION = ("completion", "response", "answer", "output")


def read(files: Files, layout: Layout) -> None:
    read_conversations(files, layout, _messages)


def _messages(row: Row) -> list[Message]:
    """White space counts: what is learned is the completion as it stands behind its prompt."""
    if row.name(SYSTEM) is not None:
        raise BadRow("`system` has no place before a bare prompt. Send the row as `messages`.")
    if PROMPT not in row.fields and row.name(COMPLETION) is None:
        return pair("", row.text((TEXT,)))
    return pair(row.optional_text((PROMPT,)), row.text(COMPLETION))


def _fits(files: Files) -> bool:
    return is_text_upload(files) and any(
        not {PROMPT, TEXT}.isdisjoint(row) and "instruction" not in row for row in first_rows(files)
    )


FORMAT = Format("completions", marks=((),), read=read, fits=_fits, frame="none")
