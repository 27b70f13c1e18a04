"""Programs of `difffit_core` that commands run on this machine, in a process of their own: the client never imports torch."""

import importlib.util
import json
import subprocess
import sys
from typing import Any

from client.errors import ConfigError


def run_core(module: str, arguments: list[str]) -> dict[str, Any]:
    """The JSON object that `python -m module` prints; its stderr is the user's. Raises ConfigError with the error in it."""
    if importlib.util.find_spec("torch") is None:
        raise ConfigError("This needs torch, which is not installed here:  pip install 'difffit[train]'", code="no_torch")
    done = subprocess.run([sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        document: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        raise ConfigError(f"{module} ended with exit code {done.returncode}; what it wrote above says why.") from None
    if "error" in document:
        raise ConfigError(**document["error"])
    return document
