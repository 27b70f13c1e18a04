"""Prompts that a language model cannot read are refused before they are queued, unless it is their frame that is too much."""

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from anyio import CapacityLimiter, move_on_after, to_thread

from difffit_core.sampling.context import room
from difffit_core.spec.catalog import BaseModelEntry
from difffit_core.spec.conversations import Message, question
from difffit_core.spec.generation import TextGenerationSpec

logger = logging.getLogger(__name__)

AROUND = 2  # tokens that stand around a prompt without a frame, or that a text has fewer in a frame: one joins at each end
TURN_SECONDS = 5.0  # whoever waits longer for others' prompts to be counted leaves its own to the worker
COUNT_SECONDS = 20.0  # far more than the longest text that is taken needs, its tokenizer loaded first

Count = Callable[[Path, str, bool], int | None]  # see `TokenCounter.count`


@dataclass(frozen=True)
class LongPrompts:
    """What is asked of a language model that reads `context` tokens, where some of it may be more."""

    tokenizer: Path
    context: int
    spec: TextGenerationSpec

    def check(self, count: Count) -> None:
        """Raise SpecError (`prompt_too_long`, `context_exceeded`) where there is no room for a prompt or its answer."""
        spec, framed = self.spec, self.spec.frame != "none"
        for conversation in self._long():
            length = 0
            for text in _texts(conversation):
                counted = count(self.tokenizer, text.strip() if framed else text, not framed)
                if counted is None:
                    return
                length += max(0, counted - AROUND) if framed else counted
            asked = conversation[-1]["content"]
            room(asked, length, spec.max_tokens, self.context, param=spec.asked_by, at_least=framed)

    def __bool__(self) -> bool:
        return any(True for _ in self._long())

    def _long(self) -> Iterator[list[Message]]:
        """Those that have no room for certain: no token is less than a byte."""
        spec, most = self.spec, self.context - AROUND - (self.spec.max_tokens or 1)
        for conversation in [spec.messages] if spec.messages else map(question, dict.fromkeys(spec.prompts)):
            if sum(len(text.encode()) for text in _texts(conversation)) > most:
                yield conversation


def long_prompts(base: BaseModelEntry, spec: TextGenerationSpec) -> LongPrompts | None:
    """What has to be counted; None where so few bytes have room anyway, and where the base says too little to count here."""
    context, tokenizer = base.context_tokens(), base.tokenizer_file()
    if context is None or tokenizer is None:
        return None
    return LongPrompts(tokenizer, context, spec) or None


def _texts(conversation: list[Message]) -> Iterator[str]:
    for message in conversation:
        yield message["content"]
        if "input" in message:
            yield message["input"]


class TokenCounter:
    """A process that counts tokens, one text at a time: from the first text that is long until this process ends."""

    def __init__(self) -> None:
        self._turns = CapacityLimiter(1)
        self._process: subprocess.Popen[str] | None = None

    async def check(self, prompts: LongPrompts) -> None:
        """As `LongPrompts.check`, in a thread; nothing where so many wait that no turn comes in time."""
        with move_on_after(TURN_SECONDS):
            await to_thread.run_sync(prompts.check, self.count, limiter=self._turns)

    def count(self, tokenizer: Path, text: str, special: bool) -> int | None:
        """The tokens of a text, see `difffit_core.sampling.token_counts`; None where they cannot be counted."""
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        watch = threading.Timer(COUNT_SECONDS, process.kill)
        watch.start()
        try:
            process.stdin.write(json.dumps([str(tokenizer), text, special]) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except OSError:
            answer = ""
        finally:
            watch.cancel()
        if not answer:
            logger.warning("The process that counts tokens has ended; the next long text starts another")
            self.close()
            return None
        counted: int | None = json.loads(answer)
        return counted

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "difffit_core.sampling.token_counts"],
                env=os.environ | {"TOKENIZERS_PARALLELISM": "false"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        return self._process

    def close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()
