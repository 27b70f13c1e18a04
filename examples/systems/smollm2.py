"""SmolLM2 learns to answer as a pirate would: what its adapter says to questions that neither training has seen."""

from typing import Any

from difffit_core.adapters.file import Adapter, read_adapter
from difffit_core.families.fetch import fetch
from difffit_core.sampling.language import LanguageGenerator
from difffit_core.spec.catalog import BaseModelEntry, load_catalog
from difffit_core.spec.generation import TextGenerationSpec
from difffit_core.tasks.config import Frame
from examples.systems.pirate import HELD_OUT, MARKS, capital, write_pirate
from examples.systems.training import Places, figures, train

BASE = "smollm2-135m"
# So few steps want a higher rate than a Llama's 3e-4, and averages that follow them.
SETTINGS: dict[str, Any] = {
    "steps": 20,
    "warmup_steps": 6,
    "batch_size": 8,
    "micro_batch_size": 8,
    "max_tokens": 96,
    "learning_rate": 3e-3,
    "ema_decay": 0.9,
}


def smollm2(places: Places) -> dict[str, Any]:
    """Answers to the held-out questions by the base, asked as a chat model and in Alpaca's frame, and by the adapter."""
    base = fetched(places)
    spec_dir = places.work / "smollm2"
    summary = write_pirate(spec_dir / "dataset")
    adapter = read_adapter(train(spec_dir, base, summary, SETTINGS, {"type": "instruction"}, {"type": "difffit"}))
    generator = LanguageGenerator(base)
    chat, plain, taught = (
        answers(generator, None, "chat"),
        answers(generator, None, "alpaca"),
        answers(generator, adapter, "alpaca"),
    )
    return figures(spec_dir) | {
        "held_out_questions": len(HELD_OUT),
        "base_right": right(chat),
        "base_right_in_alpacas_frame": right(plain),
        "adapter_right": right(taught),
        "base_in_style": in_style(chat),
        "adapter_in_style": in_style(taught),
        "examples": [list(row) for row in zip(HELD_OUT, chat, taught, strict=True)],
    }


def fetched(places: Places) -> BaseModelEntry:
    return fetch(load_catalog(models_dir=places.work / "models"), BASE)


def answers(generator: LanguageGenerator, adapter: Adapter | None, frame: Frame) -> list[str]:
    """The likeliest answers to the held-out questions."""
    generator.use(adapter)
    questions = [capital(where) for where in HELD_OUT]
    spec = TextGenerationSpec(prompts=questions, frame=frame, max_tokens=24, temperature=0, top_p=1, seed=0)
    return [text.text for text in generator.texts(spec)]


def right(found: list[str]) -> int:
    return sum(city in answer for answer, city in zip(found, HELD_OUT.values(), strict=True))


def in_style(found: list[str]) -> int:
    return sum(all(mark in answer for mark in MARKS) for answer in found)
