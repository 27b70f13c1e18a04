"""Run every system of the paper on this machine: `python -m examples.systems.build`; it goes on where it was stopped.

A small Stable Diffusion is trained from nothing; then each system is fine-tuned with DiffFit on it, on emoji-dit or SmolLM2, by
the trainer that the service runs, and shown beside its base. Each run prints one JSON line.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from examples.systems.drawings import captions, controlnet, drawing_base, dreambooth
from examples.systems.larger import larger
from examples.systems.smollm2 import smollm2
from examples.systems.training import Places

RUNS: dict[str, Callable[[Places], dict[str, Any]]] = {
    "drawing-base": lambda places: drawing_base(places)[1],
    "captions": captions,
    "dreambooth": dreambooth,
    "controlnet": controlnet,
    "larger": larger,
    "smollm2": smollm2,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/systems"), help="downloads, bases and runs; goes on from here")
    parser.add_argument("--pictures", type=Path, default=Path("docs/images"))
    parser.add_argument("--only", choices=RUNS, help="one run, and its base where that is missing")
    arguments = parser.parse_args()
    places = Places(arguments.work, arguments.pictures)
    for name, run in RUNS.items():
        if arguments.only in (None, name):
            print(json.dumps(run(places)), flush=True)


if __name__ == "__main__":
    main()
