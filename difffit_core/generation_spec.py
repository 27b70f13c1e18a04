"""What a generator is asked for, every setting resolved: pictures, or texts. Torch-free."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from difffit_core.strict import Seed, Strict

Scheduler = Literal["ddpm", "ddim", "dpmsolver++"]

AdapterStrength = Annotated[float, Field(ge=0, le=2)]  # 0 is the base, 1 the adapter as it was trained


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
    """What a language model writes: an answer to each of `prompts`, answer `i` with the seed `seed + i`."""

    prompts: Annotated[list[str], Field(min_length=1)]
    max_tokens: Annotated[int, Field(strict=True, ge=1, le=32768)] | None  # of each answer; null: MAX_TOKENS, or what has room
    temperature: Annotated[float, Field(ge=0, le=5)]  # 0: always the likeliest token
    top_p: Annotated[float, Field(gt=0, le=1)]  # draw among the likeliest tokens that have so much of the probability
    seed: Seed
    adapter_strength: AdapterStrength = 1.0
