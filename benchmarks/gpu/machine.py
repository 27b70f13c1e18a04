"""What figures were measured on and with."""

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from difffit_core.runtime.devices import device_name, pick_device, total_memory

PACKAGES = ("torch", "triton", "diffusers", "transformers", "peft", "safetensors", "numpy")


def describe() -> dict[str, Any]:
    """Card, driver, versions and date."""
    device = pick_device("auto")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": device_name(device),
        "device_bytes": total_memory(device),
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") or None,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "python": platform.python_version(),
        "commit": _output("git", "rev-parse", "--short=12", "HEAD") or None,
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _output(*command: str) -> str:
    """Of a command that a machine may lack."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""
