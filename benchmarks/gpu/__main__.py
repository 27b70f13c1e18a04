"""Run the sections in order of worth, each in a process of its own with a time limit: `python -m benchmarks.gpu --out DIR`.

DIR gets one JSON file a section, which is complete after every figure, and `log.txt`. A section that fails or is cut off
keeps what it had, and the next one runs.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from benchmarks.gpu.record import Record

SOFT_SHARE = 0.9  # of a section's limit: what it plans with itself, so that it ends in order
STOP_SECONDS = 5.0  # from asking a section to end to killing it
SHOWN_LINES = 15  # of the log, in the error of a section that failed


@dataclass(frozen=True)
class Section:
    """A module of this package with `run(record, small, seconds)` and `summary(figures)`, and its share of the time."""

    name: str
    share: float


SECTIONS = (Section("tests", 2), Section("step", 4), Section("plans", 2), Section("service", 3))


def main() -> int:
    arguments = parse_arguments()
    if arguments.section:
        return run_section(arguments)
    chosen = [section for section in SECTIONS if not arguments.only or section.name in arguments.only]
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="difffit-gpu-") as folder, (arguments.out / "log.txt").open("ab") as log:
        environment = os.environ | {"BENCHMARK_SCRATCH": folder, "PYTHONUNBUFFERED": "1"}
        environment.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{folder}/inductor")  # kept between runs where it is set
        statuses = run_all(chosen, arguments, environment, log)
    for section in chosen:
        print_summary(section, Record(arguments.out / f"{section.name}.json").figures)
    return int(any(status != "done" for status in statuses))


def parse_arguments() -> argparse.Namespace:
    names = [section.name for section in SECTIONS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="Where the figures go")
    parser.add_argument("--minutes", type=float, default=8.0, help="For all sections together")
    parser.add_argument("--only", choices=names, nargs="+", metavar="SECTION", help=f"Of {', '.join(names)}")
    parser.add_argument("--small", action="store_true", help="Every section in small, on a CPU too, in a minute")
    parser.add_argument("--section", choices=names, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    return parser.parse_args()


def run_section(arguments: argparse.Namespace) -> int:
    """In the section's own process."""
    import torch

    from benchmarks.gpu.machine import describe

    if arguments.small:
        torch.set_num_threads(1)
    record = Record(arguments.out / f"{arguments.section}.json")
    record.write(machine=describe())
    module = import_module(f"benchmarks.gpu.{arguments.section}")
    module.run(record, arguments.small, arguments.seconds)
    return 0


def run_all(
    sections: Sequence[Section], arguments: argparse.Namespace, environment: dict[str, str], log: IO[bytes]
) -> list[str]:
    """One after the other; what a section leaves of its time the next ones have."""
    ends, shares, statuses = time.monotonic() + 60 * arguments.minutes, sum(s.share for s in sections), []
    for section in sections:
        limit = max(STOP_SECONDS, (ends - time.monotonic()) * section.share / shares)
        shares -= section.share
        record = Record(arguments.out / f"{section.name}.json")
        record.figures = {}
        command = ["-m", "benchmarks.gpu", *sys.argv[1:]]
        record.write(section=section.name, command=" ".join(["python", *command]), small=arguments.small, status="running")
        print(f"{section.name}: {limit:.0f} seconds at most", flush=True)
        began, start = time.monotonic(), log.tell()
        own = [sys.executable, *command, "--section", section.name, "--seconds", f"{SOFT_SHARE * limit:.1f}"]
        code = run_in_time(own, limit, environment, log)
        log.seek(0, os.SEEK_END)
        record = Record(record.path)  # as the section's process has left it
        statuses.append("cut off" if code is None else "failed" if code else "done")
        last = Path(log.name).read_bytes()[start:].decode(errors="replace").splitlines()[-SHOWN_LINES:]
        error: dict[str, Any] = {} if code == 0 else {"error": last}
        record.write(status=statuses[-1], seconds=round(time.monotonic() - began, 1), limit_seconds=round(limit, 1), **error)
        print("\n".join([*(last if code else []), f"{section.name}: {statuses[-1]}"]), flush=True)
    return statuses


def run_in_time(command: Sequence[str], limit: float, environment: dict[str, str], log: IO[bytes]) -> int | None:
    """The exit status; None where the limit was over, and the process with all that it had started was ended."""
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        return None
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            end_group(process, number)


def end_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send a signal to a section and all that it started, and wait for a moment."""
    try:
        os.killpg(process.pid, number)
        process.wait(STOP_SECONDS)
    except (ProcessLookupError, subprocess.TimeoutExpired):
        pass


def print_summary(section: Section, figures: dict[str, Any]) -> None:
    print(f"\n{section.name} ({figures.get('status')}, {figures.get('seconds')} s)")
    try:
        lines = import_module(f"benchmarks.gpu.{section.name}").summary(figures)
    except (KeyError, TypeError, ImportError) as error:
        lines = [f"nothing to show: {type(error).__name__} {error}"]
    print("\n".join(f"  {line}" for line in lines))


if __name__ == "__main__":
    sys.exit(main())
