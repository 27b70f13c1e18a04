"""`python -m difffit_core.evaluation FOLDER`: make the evaluation of `evaluation.json`; how it goes is in `events.jsonl`."""

import argparse
import os
import sys
import traceback
from pathlib import Path

from difffit_core.errors import DiffFitError
from difffit_core.runtime.parent import die_with_parent
from difffit_core.training.events import EventLog


def main() -> int:
    """Returns the exit code: 0 done, 1 failed with an event that says why."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="with evaluation.json, dataset/ and perhaps adapter.safetensors")
    parser.add_argument("--die-with-parent", action="store_true", help="end when the process that started this one does")
    arguments = parser.parse_args()
    if arguments.die_with_parent:
        die_with_parent()
    folder: Path = arguments.folder
    events = EventLog(folder / "events.jsonl")
    # Only now, because these load torch.
    from difffit_core.evaluation.spec import StandaloneEvaluation
    from difffit_core.evaluation.standalone import evaluate
    from difffit_core.runtime.devices import is_out_of_memory

    try:
        asked = StandaloneEvaluation.model_validate_json((folder / "evaluation.json").read_text())
        evaluate(folder, asked, events, os.environ.get("DIFFFIT_DEVICE", "auto"))
    except DiffFitError as error:
        events.emit("failed", **error.reason())
        return 1
    except Exception as error:
        traceback.print_exc()
        code = "out_of_memory" if is_out_of_memory(error) else "evaluation_failed"
        events.emit("failed", code=code, message=f"The evaluation failed: {type(error).__name__}: {error}", param=None)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
