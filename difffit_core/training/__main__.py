"""The command-line trainer: `python -m difffit_core.training SPEC_DIR`, or `-` to wait, already warm, for a folder on stdin.

`torchrun --nproc-per-node 2 -m difffit_core.training SPEC_DIR` shares the work between two processes.
"""

import argparse
import errno
import os
import signal
import sys
import traceback
from pathlib import Path

from difffit_core.runtime.parent import die_with_parent


def main() -> int:
    """Run one training; returns the exit code: 0 ended or was stopped, 1 failed with an event that says why."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("spec_dir", help="a folder with spec.json and dataset/; or - to read its name from standard input")
    parser.add_argument("--die-with-parent", action="store_true", help="end when the process that started this one does")
    arguments = parser.parse_args()
    if arguments.die_with_parent:
        die_with_parent()
    if arguments.spec_dir != "-":
        return train(Path(arguments.spec_dir))
    # torch, diffusers and the models of the most usual task are loaded while there is nothing to do
    import difffit_core.tasks.class_conditional
    import difffit_core.training.trainer  # noqa: F401

    print("ready", flush=True)  # noqa: T201 (the protocol of a standby trainer)
    line = sys.stdin.readline().rstrip("\n")
    return train(Path(line)) if line else 0


def train(folder: Path) -> int:
    """Train the SPEC_DIR `folder` and say how it went in its `events.jsonl`. Of several processes, the first does."""
    from difffit_core.errors import DiffFitError
    from difffit_core.runtime.devices import is_out_of_memory, pick_device
    from difffit_core.runtime.processes import Processes
    from difffit_core.spec.job import read_spec
    from difffit_core.training.events import EventLog
    from difffit_core.training.stopping import Stopped, StopRequest
    from difffit_core.training.trainer import Trainer

    leads = os.environ.get("RANK", "0") == "0"
    events, stop = EventLog(folder / "events.jsonl" if leads else Path(os.devnull)), StopRequest()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop.on_signal if leads else signal.SIG_IGN)  # the others end when the first tells them
    try:
        spec = read_spec(folder)
        processes = Processes(pick_device(os.environ.get("DIFFFIT_DEVICE", "auto")))
        Trainer(spec, folder, processes, events, stop).run()
        processes.close()
    except Stopped:  # before there was anything to keep
        events.emit("stopped", step=0)
    except DiffFitError as error:
        events.emit("failed", code=error.code, message=error.message, param=error.param)
        return 1
    except Exception as error:
        traceback.print_exc()
        code, param = "internal_error", None
        if is_out_of_memory(error):
            code, param = "out_of_memory", "hyperparameters.micro_batch_size"
        elif isinstance(error, OSError) and error.errno == errno.ENOSPC:
            code = "disk_full"
        events.emit("failed", code=code, message=f"The trainer failed: {type(error).__name__}: {error}", param=param)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
