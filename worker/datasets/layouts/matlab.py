"""MATLAB files of an upload, read in a process with limits of its own."""

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from difffit_core.errors import DatasetError
from worker.datasets.archives.archives import UnpackedFile
from worker.kit.confined import environment

SECONDS = 60  # the largest list of the known datasets takes one


def read_matlab(file: UnpackedFile, variables: Sequence[str]) -> list[list[Any]]:
    """Each variable as a list: of numbers, of strings or lists (a cell array), or of dictionaries (a struct array).

    Raises DatasetError (`invalid_metadata_file`).
    """
    target = file.path.with_name(f"{file.path.name}.json")
    reader = [sys.executable, "-m", "worker.datasets.layouts.matlab_reader"]
    command = [*reader, str(SECONDS), str(file.path), str(target), *variables]
    # A pool of threads would count against the limit of memory.
    alone = environment() | {"OPENBLAS_NUM_THREADS": "1"}
    ended = subprocess.run(command, env=alone, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    try:
        answer = json.loads(target.read_bytes()) if ended.returncode == 0 else {}
    finally:
        target.unlink(missing_ok=True)
    if "values" not in answer:
        reason = answer.get("problem", f"its reader ended with status {ended.returncode}")
        raise DatasetError(f"{file.name} cannot be read: {reason}.", code="invalid_metadata_file", param="file")
    values: list[list[Any]] = answer["values"]
    return values
