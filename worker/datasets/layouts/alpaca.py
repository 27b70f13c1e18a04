"""Instructions as Stanford Alpaca has them: `instruction`, `input` where there is one, and `output`; also earlier turns."""

from difffit_core.spec.conversations import Message
from worker.datasets.layouts.files import Files
from worker.datasets.layouts.layout import Format, Layout
from worker.datasets.layouts.text_rows import BadRow, Row, is_text_upload, read_conversations, text_of

INSTRUCTION = ("instruction", "question", "query")
INPUT = ("input", "context")
OUTPUT = ("output", "response", "answer")
HISTORY = "history"  # [[instruction, output], …] that came before


def read(files: Files, layout: Layout) -> None:
    read_conversations(files, layout, _messages)


def _messages(row: Row) -> list[Message]:
    asked: Message = {"role": "user", "content": row.text(INSTRUCTION)}
    if about := row.optional_text(INPUT):
        asked["input"] = about
    answer: Message = {"role": "assistant", "content": row.text(OUTPUT)}
    return [*row.system(), *_history(row), asked, answer]


def _history(row: Row) -> list[Message]:
    """The turns before the instruction, whose answers are learned as well."""
    if row.name((HISTORY,)) is None:
        return []
    turns, messages = row.fields[HISTORY], list[Message]()
    if not isinstance(turns, list):
        raise BadRow(f"The field `{HISTORY}` is no list of pairs of an instruction and its answer.")
    for place, turn in enumerate(turns):
        path = f"{HISTORY}[{place}]"
        if not isinstance(turn, list) or len(turn) != 2:
            raise BadRow(f"`{path}` is no pair of an instruction and its answer.")
        said = {f"{path}[{i}]": text for i, text in enumerate(turn)}
        asked, answer = (text_of(said, name) for name in said)
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return messages


FORMAT = Format("alpaca", marks=((),), read=read, fits=is_text_upload, frame="alpaca")
