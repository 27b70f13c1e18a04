"""What a user may set of each task, told apart by `type`, and what each wants of a base and of a dataset. Torch-free."""

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from difffit_core.errors import SpecError
from difffit_core.spec.strict import Auto, Flag, Strict

TaskName = Literal["class-conditional", "text-to-image", "dreambooth", "controlnet", "instruction"]
Holding = Literal["file", "label", "caption", "condition", "messages"]  # a field of an example, see `dataset.Item`
Frame = Literal["alpaca", "chat", "none"]  # what the prompts of a language model stand in

CaptionWith = Annotated[
    Literal["blip"] | None,
    Field(description="Write the captions that are missing with the operator's BLIP model; null: every picture must have one."),
]


class ClassConditionalConfig(Strict):
    """Pictures of classes on a DiT."""

    type: Literal["class-conditional"] = "class-conditional"


class TextToImageConfig(Strict):
    """Pictures with captions."""

    type: Literal["text-to-image"]
    caption_with: CaptionWith = None


class DreamBoothConfig(Strict):
    """A few pictures of one subject, which gets a word of its own (Ruiz et al. 2023, arXiv 2208.12242)."""

    type: Literal["dreambooth"]
    identifier: str = Field(
        "<subject>",
        pattern=r"^\S{1,50}$",
        description="The word that is added to the tokenizer and stands for the subject in prompts",
    )
    subject: str = Field(
        min_length=1,
        max_length=100,
        description="What the subject is one of, such as dog: prompts read a photo of <subject> dog",
    )
    prior_images: Annotated[int, Field(strict=True, ge=0, le=1000)] = Field(
        0, description="Pictures of the whole kind that the base makes once, against forgetting it; 0: none"
    )
    prior_weight: Annotated[float, Field(strict=True, gt=0, le=100)] = 1.0
    train_text_encoder: Flag = False

    def check_new(self, vocabulary: Collection[str]) -> None:
        """Raise SpecError (`token_exists`) where a CLIP tokenizer with these tokens has the identifier already."""
        if self.identifier in vocabulary or f"{self.identifier.lower()}</w>" in vocabulary:
            raise SpecError(
                f"The tokenizer has a token {self.identifier!r} already, of another meaning. Choose another identifier.",
                code="token_exists",
                param="task.identifier",
            )

    @property
    def prompt(self) -> str:
        """Of the subject's pictures."""
        return f"a photo of {self.identifier} {self.subject}"

    @property
    def prior_prompt(self) -> str:
        """Of pictures of the whole kind."""
        return f"a photo of a {self.subject}"


class ControlNetConfig(Strict):
    """Pictures with captions and condition pictures; on a base without a ControlNet it starts as a copy of the UNet."""

    type: Literal["controlnet"]
    caption_with: CaptionWith = None


class InstructionConfig(Strict):
    """Answers of a language model to prompts and in conversations."""

    type: Literal["instruction"]
    frame: Frame | Auto = Field(
        "auto",
        description="What prompts stand in: alpaca, Stanford Alpaca's headings; chat, the base's own chat template; none. Auto "
        "is what the dataset's rows are written for",
    )

    @property
    def asked_in(self) -> Frame:
        """The frame of prompts; an adapter of which nobody has said it learned them as they are sent."""
        return "none" if self.frame == "auto" else self.frame


TaskConfig = Annotated[
    ClassConditionalConfig | TextToImageConfig | DreamBoothConfig | ControlNetConfig | InstructionConfig,
    Field(discriminator="type"),
]
TASK = TypeAdapter[TaskConfig](TaskConfig)

FIELDS_OF_TASK: dict[TaskName, tuple[Holding, ...]] = {
    "class-conditional": ("file", "label"),
    "text-to-image": ("file", "caption"),
    "dreambooth": ("file",),
    "controlnet": ("file", "condition", "caption"),
    "instruction": ("messages",),
}  # what every example of a dataset must have


def fields_of(task: TaskConfig) -> tuple[Holding, ...]:
    """What every example must have for this task as it is set: captions need not be there where they are written."""
    writes = getattr(task, "caption_with", None) is not None
    return tuple(field for field in FIELDS_OF_TASK[task.type] if not (writes and field == "caption"))


def check_captioner(task: TaskConfig, captioner: Path | None) -> None:
    """Raise SpecError where captions are to be written and there is no model that writes them."""
    if getattr(task, "caption_with", None) is not None and captioner is None:
        raise SpecError(
            "This server has no model that writes captions: its operator names one by DIFFFIT_CAPTIONER. "
            "Send captions with the pictures, and leave caption_with out.",
            code="no_captioner",
            param="task.caption_with",
        )
