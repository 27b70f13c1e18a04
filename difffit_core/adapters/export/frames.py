"""The tokenizer of an exported language model: its chat template lays prompts out as the adapter was trained."""

from pathlib import Path

from difffit_core.adapters.file import Adapter
from difffit_core.data.framing import Framing
from difffit_core.families.networks import load_tokenizer
from difffit_core.spec.catalog import BaseModelEntry
from difffit_core.tasks.config import InstructionConfig


def write_frame(base: BaseModelEntry, adapter: Adapter, folder: Path) -> None:
    """Write the base's tokenizer with the frame as its chat template; nothing where the adapter is of pictures."""
    task = adapter.header.task
    if not isinstance(task, InstructionConfig):
        return
    tokenizer = load_tokenizer(base.path)
    tokenizer.chat_template = Framing(tokenizer, task.asked_in).template or tokenizer.chat_template
    tokenizer.save_pretrained(folder)
