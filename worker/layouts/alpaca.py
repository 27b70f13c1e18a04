"""Instructions as Stanford Alpaca has them: `instruction`, `input` where there is one, and `output`, in its prompt format."""

from typing import Any

from worker.layouts.files import Files
from worker.layouts.layout import Format, Layout
from worker.layouts.text_rows import BadRow, is_text_upload, read_rows, text_of

# Models that were trained on such data know these prompts to the letter.
WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
)
WITHOUT_INPUT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:"
)


def read(files: Files, layout: Layout) -> None:
    for source, number, row in read_rows(files, layout):
        try:
            prompt, answer = _prompt(row), text_of(row, "output")
        except BadRow as error:
            layout.refuse_row(source, number, str(error), "invalid_row")
        else:
            layout.add_text(f"{source}:{number}", prompt, answer)


def _prompt(row: dict[str, Any]) -> str:
    instruction = text_of(row, "instruction")
    if row.get("input") in (None, ""):
        return WITHOUT_INPUT.format(instruction=instruction)
    return WITH_INPUT.format(instruction=instruction, input=text_of(row, "input"))


FORMAT = Format("alpaca", marks=((),), read=read, fits=is_text_upload)
