"""What an example of a dataset holds: its hash, and the fields that all examples have. Torch-free."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import get_args

from difffit_core.spec.conversations import Message
from difffit_core.tasks.config import Holding

FIELDS: tuple[Holding, ...] = tuple(sorted(get_args(Holding)))


def example_sha256(file: str = "", condition: str = "", caption: str = "", messages: Sequence[Message] = ()) -> str:
    """Hash of an example, its pictures given by their SHA-256. A picture alone has its own hash."""
    if not (condition or caption or messages):
        return file
    return hashlib.sha256(json.dumps([file, condition, caption, messages], sort_keys=True).encode()).hexdigest()


def fields_of_all(examples: Iterable[Mapping[str, object]]) -> list[Holding]:
    """The FIELDS that no example lacks, sorted; none where there is no example."""
    held: set[Holding] | None = None
    for example in examples:
        present = {name for name in FIELDS if example.get(name)}
        held = present if held is None else held & present
    return sorted(held or ())
