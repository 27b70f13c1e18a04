"""`python -m difffit_core.sampling.token_counts` answers `[path of a tokenizer.json, text, special]` with its tokens.

A process of its own, since the library keeps the interpreter for itself while it loads a tokenizer: up to a second.
"""

import json
import sys
from functools import lru_cache
from pathlib import Path

from tokenizers import Tokenizer

KEPT = 4  # tokenizers, of some ten megabytes each


def main() -> None:
    """Until there are no more lines: whoever started this has ended."""
    for line in sys.stdin:
        path, text, special = json.loads(line)
        try:
            answer: int | None = count(Path(path), text, special)
        except Exception as error:  # the library has no narrower one
            print(f"The tokens of a text cannot be counted by {path}: {error}", file=sys.stderr, flush=True)  # noqa: T201
            answer = None
        print(json.dumps(answer), flush=True)  # noqa: T201


def count(path: Path, text: str, special: bool) -> int:
    """The tokens of a text, with `special` also those that the tokenizer puts around it."""
    tokenizer = _loaded(path, path.stat().st_mtime_ns)
    return len(tokenizer.encode_batch_fast([text], add_special_tokens=special)[0])


@lru_cache(maxsize=KEPT)
def _loaded(path: Path, _changed_at: int) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


if __name__ == "__main__":
    main()
