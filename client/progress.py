"""Bars for uploads, downloads and training, on stderr; where that is no terminal, training tells a line now and then."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from client.console import number_text, plain
from client.responses import Event
from client.upload import ProgressCallback
from difffit_core.tasks.words import words_of

TELLING_SECONDS = 10.0  # between two lines in a log: enough to see that it goes on, and a few hundred in an hour


@contextmanager
def transfer_bar(console: Console, what: str) -> Iterator[ProgressCallback]:
    """A bar of bytes; yields the callback that moves it."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextmanager
def count_bar(console: Console, what: str) -> Iterator[ProgressCallback]:
    """A bar of things that are counted; yields the callback that moves it."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f}"))
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=0)
        yield lambda done, total: progress.update(task, completed=done, total=total)


class TrainingView:
    """Shows a job's events: step, loss, rate and remaining time in a bar, and the rest as lines above it.

    Where there is no terminal, what the bar says becomes a line every `TELLING_SECONDS`, and one at the last step.
    """

    def __init__(self, console: Console, task: str) -> None:
        self._console = console
        self._examples = words_of(task).examples
        columns = (
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[details]}"),
        )
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task("waiting for a worker", total=0, details="")
        self._left = threading.Event()
        self._teller = threading.Thread(target=self._tell_until_left, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._bar.start()
        if not self._console.is_terminal:
            self._teller.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._left.set()
        if self._teller.is_alive():
            self._teller.join()
        self._bar.stop()

    def show(self, event: Event) -> None:
        """Show one event; types that are not known here are passed over."""
        data = event["data"]
        match event["type"]:
            case "started":
                self._bar.update(self._task, description="preparing")
                resumed = f", resumed from step {data['resumed_from']}" if data.get("resumed_from") else ""
                trained, total = data["trained_parameters"], data["total_parameters"]
                self._line(f"training {trained:,} of {total:,} parameters ({trained / total:.2%}) on {data['device']}{resumed}")
            case "encoding":
                self._bar.update(
                    self._task, description=f"encoding {data['part']}", completed=data["done"], total=data["total"]
                )
            case "encodings_reused":
                self._line(f"{data['examples']:,} examples are encoded already")
            case "progress":
                self._progress(data)
            case "validation":
                which = "the untouched base" if data.get("base") else f"step {data['step']}"
                self._line(f"validation loss of {which}: {number_text(data['loss'])}")
            case "evaluating":
                self._bar.update(self._task, description="evaluating", completed=data["done"], total=data["total"])
            case "evaluation":
                numbers = ", ".join(f"{figure['metric']} {number_text(figure['value'])}" for figure in data["figures"])
                self._line(f"step {data['step']}: {plain(numbers)}, of {data['samples']} pictures")
            case "pausing" | "paused" | "cancelling" | "resumed" | "retried":
                self._line(event["type"])
            case "warning" | "requeued" | "out_of_memory" | "checkpoint_damaged":
                self._line(f"[yellow]{event['type']}[/] {plain(data.get('message', ''))}")
            case _:
                pass

    def _progress(self, data: dict[str, Any]) -> None:
        step, total = data["step"], data["total_steps"]
        rate, remaining = data.get("samples_per_second"), data.get("seconds_remaining")
        details = f"loss {number_text(data.get('train_loss'))}"
        details += f" · {rate:.3g} {self._examples}/s" if rate is not None else ""
        details += f" · {_clock(remaining)} left" if remaining is not None else ""
        self._bar.update(self._task, description="training", completed=step, total=total, details=details)
        if step == total and not self._console.is_terminal:
            self._tell()

    def _tell_until_left(self) -> None:
        while not self._left.wait(TELLING_SECONDS):
            self._tell()

    def _tell(self) -> None:
        """What the bar says, as a line."""
        (now,) = self._bar.tasks
        counted = f" {now.completed:.0f}/{now.total:.0f}" if now.total else ""
        details = f" · {now.fields['details']}" if now.fields["details"] else ""
        self._line(f"{now.description}{counted}{details}")

    def _line(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)


def _clock(seconds: float) -> str:
    """Seconds as `1:02:03` or `2:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
