"""Child processes that end with their parent, and the ways by which root can start a program that refuses root. Linux only."""

import ctypes
import os
import pwd
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from jobstore.kit.errors import EmbeddedServerError

Prepare = Callable[[], None]

LOG_TAIL_LINES = 15
POLL_SECONDS = 0.02

# From linux/prctl.h, linux/sched.h and linux/capability.h
PR_SET_PDEATHSIG, PR_SET_KEEPCAPS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 1, 8, 47, 2
CLONE_NEWUSER = 0x10000000
CAPABILITY_VERSION_3, CAP_DAC_OVERRIDE = 0x20080522, 1
NOBODY = 65534

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass
class Part:
    """A running child with its log. `stop_signal` asks it to end in order."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    stop_signal: signal.Signals

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def ask_to_stop(self) -> None:
        if self.running:
            self.process.send_signal(self.stop_signal)

    def wait_or_kill(self, grace_seconds: float) -> None:
        """Wait for the end, and kill the child with what it started where it has not come after the grace period."""
        try:
            self.process.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def stop(self, grace_seconds: float) -> None:
        self.ask_to_stop()
        self.wait_or_kill(grace_seconds)

    def wait_until(self, ready: Callable[[], bool], timeout_seconds: float) -> None:
        """Wait until `ready()`; raises EmbeddedServerError with the end of the log where the child dies or takes too long."""
        deadline = time.monotonic() + timeout_seconds
        while not ready():
            if not self.running:
                raise self.failure(f"ended with status {self.process.returncode}")
            if time.monotonic() > deadline:
                raise self.failure(f"was not ready after {timeout_seconds:.0f} s")
            time.sleep(POLL_SECONDS)

    def failure(self, what: str) -> EmbeddedServerError:
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        return EmbeddedServerError("\n  ".join([f"{self.name} {what}. The end of its log, {self.log}:", *lines]))


def start(
    name: str,
    command: Sequence[str | Path],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    prepare: Prepare | None = None,
    stop_signal: signal.Signals = signal.SIGTERM,
    death_signal: signal.Signals = signal.SIGKILL,
    inherited: Sequence[int] = (),
) -> Part:
    """Start a child that gets `death_signal` when this process ends in any way, `kill -9` included.

    Call it from the main thread: the kernel binds the death signal to the thread that forks. The child has its own session,
    so that Ctrl-C reaches this process alone, which then stops its children in order. `inherited` descriptors stay open in it.
    """
    parent = os.getpid()

    def in_child() -> None:
        if prepare:
            prepare()
        # After `prepare`: a change of credentials clears the death signal.
        _check(_libc.prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0))
        if os.getppid() != parent:
            os._exit(1)  # the parent ended before the signal was set

    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=env,
            preexec_fn=in_child,
            start_new_session=True,
            pass_fds=inherited,
        )
    return Part(name, process, log, stop_signal)


def ordinary_user(program: Path, folder: Path) -> tuple[Prepare | None, int]:
    """How to start PostgreSQL's `program` with `folder` as its data: a preparation of the child, and the files' owner.

    It refuses root and users without a name, as containers have them. They try a user namespace, in which they are nobody over
    the same files; root then tries to become nobody.
    """
    user = os.geteuid()
    if user != 0 and _has_name(user):
        return None, user
    namespace = partial(_enter_user_namespace, user)
    if _works(namespace, program, folder):
        return namespace, user
    if user == 0 and _works(_become_nobody, program, folder):
        return _become_nobody, NOBODY
    raise EmbeddedServerError(
        f"{program.name} runs neither as root nor as a user without a name, and this system does not let uid {user} "
        "become another. Start as an ordinary user, or set DATABASE_URL to a running server."
    )


def _has_name(user: int) -> bool:
    try:
        return bool(pwd.getpwuid(user))
    except KeyError:
        return False


def _works(prepare: Prepare, program: Path, folder: Path) -> bool:
    probe = ["/bin/sh", "-c", 'test -w "$1" && "$0" --version', str(program), str(folder)]
    try:
        return subprocess.run(probe, preexec_fn=prepare, capture_output=True, check=False).returncode == 0
    except subprocess.SubprocessError:
        return False


def _enter_user_namespace(user: int) -> None:
    _check(_libc.unshare(CLONE_NEWUSER))
    Path("/proc/self/uid_map").write_text(f"{NOBODY} {user} 1")


def _become_nobody() -> None:
    """The user nobody, who may still pass folders of root, such as /root, in which the program and its data may lie."""
    _check(_libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0))
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    bit = 1 << CAP_DAC_OVERRIDE
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0)  # effective, permitted, inheritable; low words, then high
    _check(_libc.capset(header, sets))
    _check(_libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_OVERRIDE, 0, 0))


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
