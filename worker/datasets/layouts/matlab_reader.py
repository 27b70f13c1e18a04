"""A process that reads variables of an untrusted MATLAB file and writes them as JSON.

It runs as `python -m worker.datasets.layouts.matlab_reader SECONDS SOURCE TARGET VARIABLE...` and
writes {"values"} or {"problem"}.
"""

import json
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat

from worker.kit.confined import confine

MEMORY = 2 * 1024**3  # bytes of address space; half of it is the interpreter with its libraries
MAX_JSON_BYTES = 16 * 1024**2
MAX_DEPTH = 4  # of cells and structs in each other
HDF5 = b"\x89HDF"


def main(seconds: int, source: Path, target: Path, variables: list[str]) -> None:
    confine(MEMORY, reads=[source], writes=[target.parent])
    signal.alarm(seconds)
    text = json.dumps(read(source, variables))
    if len(text) > MAX_JSON_BYTES:
        text = json.dumps({"problem": f"its variables are larger than {MAX_JSON_BYTES} bytes"})
    target.write_text(text)


def read(source: Path, variables: list[str]) -> dict[str, Any]:
    """The variables, or why they cannot be read."""
    with source.open("rb") as file:
        head = file.read(1024)  # HDF5 may begin after a header of MATLAB's
    if head.startswith(HDF5) or HDF5 in head[512:516] or b"MATLAB 7.3" in head:
        return {"problem": "it is in MATLAB's format 7.3; save it with -v7"}
    try:
        found = loadmat(source, variable_names=variables, appendmat=False)
        absent = [name for name in variables if name not in found]
        if absent:
            return {"problem": f"it has no variable {absent[0]!r}"}
        values = [plain(found[name]) for name in variables]
        return {"values": [value if isinstance(value, list) else [value] for value in values]}
    except MemoryError:
        return {"problem": "it needs too much memory"}
    except Exception as error:  # the reader raises many kinds of errors on damaged data
        return {"problem": f"it is no MATLAB file of version 4 to 7 ({error!r:.200})"}


def plain(array: Any, depth: int = 0) -> Any:
    """Numbers as a list, text as a string, cells as a list, structs as a list of dictionaries."""
    if depth > MAX_DEPTH or not isinstance(array, np.ndarray):
        raise ValueError("it holds more than numbers, text, cells and structs")
    if array.dtype.names:
        return [{name: plain(one[name], depth + 1) for name in array.dtype.names} for one in array.ravel()]
    if array.dtype == object:
        return [plain(one, depth + 1) for one in array.ravel()]
    if array.dtype.kind == "U":
        return "".join(array.ravel().tolist()) if array.size < 2 else array.ravel().tolist()
    if array.dtype.kind == "f" and np.isfinite(array).all() and (array == array.round()).all():
        return [int(number) for number in array.ravel()]  # MATLAB's usual type for whole numbers too
    if array.dtype.kind in "iufb":
        return array.ravel().tolist()
    raise ValueError("it holds more than numbers, text, cells and structs")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
