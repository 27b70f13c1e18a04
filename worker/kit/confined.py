"""Confining a process that reads what users send: little memory, few files, no sockets, no programs, no secrets."""

import ctypes
import os
import platform
import resource
import signal
import struct
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
# All that such a process is told: where libraries and the interpreter's modules lie, and in which language errors are.
ENVIRONMENT = (
    "PATH",
    "LD_LIBRARY_PATH",
    "PYTHONPATH",
    "PYTHONHOME",
    "PYTHONDONTWRITEBYTECODE",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
)

# From <linux/prctl.h> and <linux/seccomp.h>.
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
SECCOMP_ALLOW, SECCOMP_EPERM, SECCOMP_KILL = 0x7FFF0000, 0x00050001, 0x80000000
# Instructions of the classic Berkeley packet filter, and where the number of the call and the architecture lie.
LOAD, JUMP_IF_EQUAL, JUMP_IF_AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06
CALL, ARCHITECTURE = 0, 4
X32_CALLS = 0x40000000  # x86-64's second set of numbers; its calls would pass a filter of the first
# socket, connect, ptrace, process_vm_readv, process_vm_writev, execve, execveat, io_uring_setup: (architecture, calls)
FORBIDDEN_CALLS = {
    "x86_64": (0xC000003E, (41, 42, 101, 310, 311, 59, 322, 425)),
    "aarch64": (0xC00000B7, (198, 203, 117, 270, 271, 221, 281, 425)),
}

# From <linux/landlock.h>; the numbers of these calls are the same on every architecture.
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
LANDLOCK_RULE_PATH_BENEATH = 1
EVERY_ACCESS = (1 << 13) - 1  # that of the first version: to execute, write, read, list, remove and make files of all kinds
READ_FILE, READ_FOLDER, WRITE_FILE, REMOVE_FILE, MAKE_FILE = 1 << 2, 1 << 3, 1 << 1, 1 << 5, 1 << 8
ACCESS_TO_FILES = READ_FILE | WRITE_FILE  # what can be allowed on a path that is no folder


def environment() -> dict[str, str]:
    """The environment to start such a process with."""
    return {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}


def confine(memory: int, *, reads: Sequence[Path] = (), writes: Sequence[Path] = (), seconds: int | None = None) -> None:
    """Give up, in this process and for good, what reading a file does not take; call it before the first untrusted byte.

    It has `memory` bytes of address space and `seconds` of computing. Of all files it reads the interpreter's modules and what
    is at `reads`, and reads and writes what is in `writes`. Where the kernel lacks Landlock or seccomp the limits of memory and
    time hold alone.
    """
    for limit, most in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_CPU, seconds)):
        if most is not None:
            resource.setrlimit(limit, (most, most))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _forbid_files(libc, reads, writes)
    _forbid_calls(libc)


def _forbid_files(libc: ctypes.CDLL, reads: Sequence[Path], writes: Sequence[Path]) -> None:
    ruleset = libc.syscall(LANDLOCK_CREATE_RULESET, struct.pack("Q", EVERY_ACCESS), 8, 0)
    if ruleset < 0:
        return
    reading = READ_FILE | READ_FOLDER
    rules = [(path, reading) for path in (*map(Path, _modules()), *reads)]
    rules += [(path, reading | WRITE_FILE | REMOVE_FILE | MAKE_FILE) for path in writes]
    for path, access in rules:
        if not path.exists():
            continue
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = struct.pack("=Qi", access if path.is_dir() else access & ACCESS_TO_FILES, opened)
        libc.syscall(LANDLOCK_ADD_RULE, ruleset, LANDLOCK_RULE_PATH_BENEATH, rule, 0)
        os.close(opened)
    libc.syscall(LANDLOCK_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def _modules() -> set[str]:
    """Where libraries and the interpreter's modules lie, and our own; but not what else is in the folder of these or of now."""
    elsewhere = {"", str(ROOT), str(Path.cwd())}
    ours = (str(ROOT / name) for name in ("worker", "difffit_core", "jobstore"))
    system = (sys.prefix, sys.base_prefix, *sysconfig.get_paths().values(), "/usr", "/lib", "/lib64", "/etc")
    return {*system, *ours, *(path for path in sys.path if path not in elsewhere)}


def _forbid_calls(libc: ctypes.CDLL) -> None:
    if platform.machine() not in FORBIDDEN_CALLS:
        return
    architecture, calls = FORBIDDEN_CALLS[platform.machine()]
    program = [
        (LOAD, 0, 0, ARCHITECTURE),
        (JUMP_IF_EQUAL, 1, 0, architecture),
        (RETURN, 0, 0, SECCOMP_KILL),
        (LOAD, 0, 0, CALL),
    ]
    program.append((JUMP_IF_AT_LEAST, len(calls) + 1, 0, X32_CALLS))
    program += [(JUMP_IF_EQUAL, len(calls) - number, 0, call) for number, call in enumerate(calls)]
    program += [(RETURN, 0, 0, SECCOMP_ALLOW), (RETURN, 0, 0, SECCOMP_EPERM)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *instruction) for instruction in program))
    filter = struct.pack("HxxxxxxQ", len(program), ctypes.addressof(code))
    libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, filter, 0, 0)


def died_of_time(status: int) -> bool:
    """Whether the kernel ended a process of this exit status because its seconds were over."""
    return status in {-signal.SIGXCPU, -signal.SIGALRM}
