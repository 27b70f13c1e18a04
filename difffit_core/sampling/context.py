"""Whether a prompt and its answer have room in what a language model reads. Torch-free."""

from difffit_core.errors import SpecError
from difffit_core.spec.generation import MAX_TOKENS, AskedBy


def room(
    asked: str, length: int, max_tokens: int | None, context: int, *, param: AskedBy = "prompts", at_least: bool = False
) -> int:
    """How many tokens the answer to `asked` of `length` tokens may have, in a model that reads `context` of both.

    With `at_least` the frame around it is not counted yet. Raises SpecError: `prompt_too_long`, or `context_exceeded` where
    fewer `max_tokens` would do.
    """
    name = "conversation that ends with" if param == "messages" else "prompt"
    shown = f"The {name} {asked[:40]!r}{'…' if len(asked) > 40 else ''} has {'at least ' if at_least else ''}{length} tokens"
    left = context - length
    if left < 1:
        raise SpecError(
            f"{shown}, and the model reads {context} with the answer. Shorten it.", code="prompt_too_long", param=param
        )
    if max_tokens is not None and max_tokens > left:
        raise SpecError(
            f"{shown}; with max_tokens {max_tokens} that is more than the {context} which the model reads. Ask for {left} at "
            "most, or shorten the prompt.",
            code="context_exceeded",
            param="max_tokens",
        )
    return min(left, MAX_TOKENS) if max_tokens is None else max_tokens
