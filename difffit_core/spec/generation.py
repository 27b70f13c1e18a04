"""What a generator is asked for, every setting resolved: pictures, or texts. Torch-free."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from difffit_core.spec.conversations import Message, question
from difffit_core.spec.strict import Seed, Strict
from difffit_core.tasks.config import Frame

Scheduler = Literal["ddpm", "ddim", "dpmsolver++"]

AdapterStrength = Annotated[float, Field(ge=0, le=2)]  # 0 is the base, 1 the adapter as it was trained


AskedBy = Literal["prompts", "messages"]

MAX_TOKENS = 256  # of an answer, where nobody says


class GenerationSpec(Strict):
    """What the sampler of pictures runs: every setting resolved, and either `labels` or `prompts`.

    Labels are class indices of the adapter's (or the base's) label space. Image `i` is of `labels[i]` or `prompts[i]` and
    starts from noise of its own seed, `seed + i`.
    """

    labels: list[int] = Field(default_factory=list)
    prompts: list[str] = Field(default_factory=list)
    negative_prompt: str = ""  # what guidance leads away from, where there are prompts
    steps: Annotated[int, Field(strict=True, ge=1, le=1000)]
    guidance_scale: Annotated[float, Field(strict=True, ge=0, le=30)]
    seed: Seed
    scheduler: Scheduler
    width: int | None = None  # in pixels; null: those of the model, or where it draws after a condition picture, its ratio
    height: int | None = None
    adapter_strength: AdapterStrength = 1.0

    @model_validator(mode="after")
    def _width_with_height(self) -> Self:
        if (self.width is None) != (self.height is None):
            raise ValueError("give width and height, or neither")
        return self

    @model_validator(mode="after")
    def _labels_or_prompts(self) -> Self:
        if bool(self.labels) == bool(self.prompts):
            raise ValueError("give either labels or prompts")
        return self


class TextGenerationSpec(Strict):
    """What a language model writes: an answer to each of `prompts`, or `n` to `messages`.

    Answer `i` has the seed `seed + i`.
    """

    prompts: list[str] = Field(default_factory=list)
    messages: list[Message] = Field(default_factory=list)  # one conversation up to its answer
    n: Annotated[int, Field(strict=True, ge=1)] = 1  # answers to `messages`
    frame: Frame = "none"
    max_tokens: Annotated[int, Field(strict=True, ge=1, le=32768)] | None  # of each answer; null: MAX_TOKENS, or what has room
    temperature: Annotated[float, Field(ge=0, le=5)]  # 0: always the likeliest token
    top_p: Annotated[float, Field(gt=0, le=1)]  # draw among the likeliest tokens that have so much of the probability
    seed: Seed
    adapter_strength: AdapterStrength = 1.0

    @model_validator(mode="after")
    def _prompts_or_messages(self) -> Self:
        if bool(self.prompts) == bool(self.messages):
            raise ValueError("give either prompts or messages")
        return self

    @property
    def asked_by(self) -> AskedBy:
        """The field that has the question."""
        return "messages" if self.messages else "prompts"

    @property
    def conversations(self) -> list[list[Message]]:
        """What each answer is to."""
        return [self.messages] * self.n if self.messages else [question(prompt) for prompt in self.prompts]
