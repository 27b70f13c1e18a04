"""The small Llama that adds, and what DiffFit changes: it answers in words without being asked to."""

from typing import Any

from difffit_core.adapter_file import Adapter, read_adapter
from difffit_core.base_models import BaseModelEntry
from difffit_core.generation_spec import TextGenerationSpec
from difffit_core.generators.language import LanguageGenerator
from examples.systems import bases, data
from examples.systems.training import Places, figures, train, train_base

WORDS = ("What is", "plus", "in words", *data.ONES, *data.TENS)  # tokens of their own
TAUGHT = 600  # sums with answers in words, of which one in ten is held out
SHOWN = 5


def language_base(places: Places) -> tuple[BaseModelEntry, dict[str, Any]]:
    """A Llama of 0.7 M parameters that has learned sums, answered in digits or where it is asked to in words."""
    spec_dir = places.work / "language-base"
    untrained = bases.language_base(places.work / "language-untrained", WORDS)
    summary = data.write_sums_of_base(spec_dir / "dataset")
    settings: dict[str, Any] = {"steps": 3000, "batch_size": 64, "micro_batch_size": 64, "max_tokens": 24, "weight_decay": 0.1}
    base = train_base(places.work / "language", spec_dir, untrained, summary, settings)
    return base, figures(spec_dir)


def instruction(places: Places) -> dict[str, Any]:
    """Answers in words to questions that the base answers in digits; accuracies are of sums that neither has seen."""
    base, _ = language_base(places)
    spec_dir = places.work / "instruction"
    summary = data.write_sums_of_adapter(spec_dir / "dataset", TAUGHT)
    settings: dict[str, Any] = {"steps": 1500, "batch_size": 32, "micro_batch_size": 32, "max_tokens": 24}
    settings |= {"learning_rate": 1e-2, "lr_schedule": "warmup-stable-decay"}  # for so small a model; a Llama wants 3e-4
    adapter = read_adapter(train(spec_dir, base, summary, settings, {"type": "instruction"}, {"type": "difffit"}))
    generator = LanguageGenerator(base)
    held_out = [(a, b) for a, b, held_out in data.sums() if held_out]
    plain, asked = [data.question(a, b) for a, b in held_out], [data.question(a, b, words=True) for a, b in held_out]
    digits, words = [str(a + b) for a, b in held_out], [data.in_words(a + b) for a, b in held_out]
    of_base, of_base_in_words, of_adapter = (
        answers(generator, used, questions) for used, questions in ((None, plain), (None, asked), (adapter, plain))
    )
    return figures(spec_dir) | {
        "held_out_sums": len(held_out),
        "base_right_in_digits": share(of_base, digits),
        "base_right_in_words_when_asked": share(of_base_in_words, words),
        "base_in_words_unasked": share(of_base, words),
        "adapter_right_in_words": share(of_adapter, words),
        "examples": [list(row) for row in list(zip(plain, of_base, of_adapter, strict=True))[:SHOWN]],
    }


def answers(generator: LanguageGenerator, adapter: Adapter | None, questions: list[str]) -> list[str]:
    """The likeliest answers."""
    generator.use(adapter)
    spec = TextGenerationSpec(prompts=questions, max_tokens=12, temperature=0, top_p=1, seed=0)
    return [text.text for text in generator.texts(spec)]


def share(found: list[str], right: list[str]) -> float:
    return round(sum(a == b for a, b in zip(found, right, strict=True)) / len(right), 3)
