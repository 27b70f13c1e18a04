"""Decoding processes for untrusted images: a few run side by side, one that dies costs one image, and only pixels come back."""

import json
import os
import queue
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from PIL import Image

from worker.kit.confined import died_of_time, environment

SECONDS_PER_IMAGE = 30  # the largest image allowed decodes in a few
MAX_PROCESSES = 4
WINDOW = 256  # images handed out at a time, so that a caller can stop between them
BYTES_PER_PIXEL = 3
MAX_ANSWER = 64 * 1024  # bytes of its first line, far more than an intact process says
# The fastest: photographs become hardly smaller by more, which would take longer than all else of a check.
COMPRESS_LEVEL = 1


@dataclass(frozen=True)
class Request:
    """An image to decode, and where to write the pixels that it has, as PNG; of a label map, those of its colours."""

    path: Path
    plain: Path
    label_map: bool = False


@dataclass(frozen=True)
class CheckedImage:
    """An image that was decoded: its upright size in pixels, its format, whether more frames follow the first.

    `plain` is the size of its PNG. A `repaired` one is a JPEG that lacks its last bytes.
    """

    width: int
    height: int
    format: str
    animated: bool
    repaired: bool
    plain: tuple[int, int]


@dataclass(frozen=True)
class RefusedImage:
    code: str
    message: str


class ImagePool:
    """Use as a context manager; its methods may be called any number of times, for files within `folder`."""

    def __init__(self, folder: Path, max_pixels: int, seconds_per_image: int = SECONDS_PER_IMAGE) -> None:
        self._idle: queue.SimpleQueue[_Decoder] = queue.SimpleQueue()
        count = min(MAX_PROCESSES, os.cpu_count() or 1)
        self._decoders = [_Decoder(folder, max_pixels, seconds_per_image) for _ in range(count)]
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

    def decode(self, path: Path) -> Image.Image | RefusedImage:
        """The pixels of one image."""
        decoder = self._idle.get()
        try:
            answer = decoder.check(path, False)
            return answer if isinstance(answer, RefusedImage) else answer[1]
        finally:
            self._idle.put(decoder)

    def _check_one(self, request: Request) -> CheckedImage | RefusedImage:
        decoder = self._idle.get()
        try:
            answer = decoder.check(request.path, request.label_map)
        finally:
            self._idle.put(decoder)
        if isinstance(answer, RefusedImage):
            return answer
        checked, pixels = answer
        pixels.save(request.plain, "PNG", compress_level=COMPRESS_LEVEL)
        return checked


class _Decoder:
    """One child process, started when it is first needed and again after each death."""

    def __init__(self, folder: Path, max_pixels: int, seconds: int) -> None:
        self._max_pixels, self._seconds = max_pixels, seconds
        self._command = [sys.executable, "-m", "worker.kit.image_check", str(max_pixels), str(seconds), str(folder)]
        self._process: subprocess.Popen[bytes] | None = None

    def check(self, path: Path, label_map: bool) -> tuple[CheckedImage, Image.Image] | RefusedImage:
        if self._process is None:
            self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment())
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"path": str(path), "label_map": label_map}).encode() + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline(MAX_ANSWER)
        except BrokenPipeError:
            line = b""
        if not line:
            return self._death()
        try:
            return self._read(json.loads(line), self._process.stdout)
        except (ValueError, TypeError, KeyError, EOFError):  # nothing that an intact process answers
            self._process.kill()
            return self._death()

    def _read(self, answer: dict[str, Any], stdout: IO[bytes]) -> tuple[CheckedImage, Image.Image] | RefusedImage:
        if "code" in answer:
            return RefusedImage(**answer)
        width, height = map(int, answer.pop("plain"))
        if min(width, height) < 1 or width * height > self._max_pixels:
            raise ValueError(f"no picture has {width} x {height} pixels")
        pixels = stdout.read(BYTES_PER_PIXEL * width * height)
        if len(pixels) < BYTES_PER_PIXEL * width * height:
            raise EOFError
        return CheckedImage(**answer, plain=(width, height)), Image.frombytes("RGB", (width, height), pixels)

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
        if died_of_time(status):
            return RefusedImage(
                "too_slow", f"The image took more than {self._seconds} s to decode. Export it again, or smaller."
            )
        return RefusedImage("damaged_image", f"The image made the decoder fail (exit status {status}). Export it again.")
