"""How a trainer is asked to end: at once where nothing can be lost, after the current step otherwise."""

from collections.abc import Iterator
from contextlib import contextmanager


class Stopped(Exception):
    """Somebody asked this process to end, and it may end here."""


class StopRequest:
    """Install `on_signal` as the handler of SIGTERM: it raises Stopped, unless the code at work is `deferred`."""

    def __init__(self) -> None:
        self.requested = False
        self._deferred = False

    def on_signal(self, *_: object) -> None:
        """Raise Stopped in the main thread, the first time; later signals change nothing."""
        if self.requested:
            return
        self.requested = True
        if not self._deferred:
            raise Stopped

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Code that must be finished once begun: a request is raised when it is done."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        if self.requested:
            raise Stopped

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """A part of `deferred` code that may be broken off; what the code does before and after it may not."""
        self._deferred = False
        try:
            if self.requested:
                raise Stopped
            yield
        finally:
            self._deferred = True
