"""Decoding processes for untrusted images: a few run side by side, and one that dies costs one image."""

import errno
import json
import os
import queue
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from worker.image_check import DISK_FULL
from worker.runtime import child_environment

SECONDS_PER_IMAGE = 30  # the largest image allowed decodes in a few
MAX_PROCESSES = 4
WINDOW = 256  # images handed out at a time, so that a caller can stop between them


@dataclass(frozen=True)
class Request:
    """An image to decode, and the pictures to write of it: a thumbnail, and the colours of a label map."""

    path: Path
    thumbnail: Path | None = None
    coloured: Path | None = None


@dataclass(frozen=True)
class CheckedImage:
    """An image that was decoded: its upright size in pixels, its format, and whether more frames follow the first."""

    width: int
    height: int
    format: str
    animated: bool


@dataclass(frozen=True)
class RefusedImage:
    code: str
    message: str


class ImagePool:
    """Use as a context manager; `check` may be called any number of times."""

    def __init__(self, max_pixels: int, seconds_per_image: int = SECONDS_PER_IMAGE) -> None:
        self._idle: queue.SimpleQueue[_Decoder] = queue.SimpleQueue()
        self._decoders = [_Decoder(max_pixels, seconds_per_image) for _ in range(min(MAX_PROCESSES, os.cpu_count() or 1))]
        for decoder in self._decoders:
            self._idle.put(decoder)
        self._threads = ThreadPoolExecutor(len(self._decoders), "image-check")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._threads.shutdown(cancel_futures=True)
        for decoder in self._decoders:
            decoder.stop()

    def check(self, requests: Iterable[Request]) -> Iterator[CheckedImage | RefusedImage]:
        """Decode images; answers come in the same order. Raises OSError where the disk has no room for what is written."""
        waiting = list(requests)
        for start in range(0, len(waiting), WINDOW):
            yield from self._threads.map(self._check_one, waiting[start : start + WINDOW])

    def _check_one(self, request: Request) -> CheckedImage | RefusedImage:
        decoder = self._idle.get()
        try:
            return decoder.check(request)
        finally:
            self._idle.put(decoder)


class _Decoder:
    """One child process, started when it is first needed and again after each death."""

    def __init__(self, max_pixels: int, seconds: int) -> None:
        self._seconds = seconds
        self._command = [sys.executable, "-m", "worker.image_check", str(max_pixels), str(seconds)]
        self._process: subprocess.Popen[str] | None = None

    def check(self, request: Request) -> CheckedImage | RefusedImage:
        if self._process is None:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=child_environment()
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(asdict(request), default=str) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            return self._death()
        answer: dict[str, Any] = json.loads(line)
        if answer.get("code") == DISK_FULL:
            raise OSError(errno.ENOSPC, answer["message"])
        return RefusedImage(**answer) if "code" in answer else CheckedImage(**answer)

    def stop(self) -> int:
        """End the process, if there is one; returns its exit status."""
        process, self._process = self._process, None
        if process is None:
            return 0
        process.kill()
        process.communicate()
        return process.returncode

    def _death(self) -> RefusedImage:
        assert self._process is not None
        status = self._process.wait()
        self.stop()
        if status == -signal.SIGALRM:
            return RefusedImage(
                "too_slow", f"The image took more than {self._seconds} s to decode. Export it again, or smaller."
            )
        return RefusedImage("damaged_image", f"The image made the decoder fail (exit status {status}). Export it again.")
