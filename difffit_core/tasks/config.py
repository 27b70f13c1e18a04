"""What a user may set of each task, told apart by `type`, and what each wants of a base and of a dataset. Torch-free."""

from typing import Annotated, Literal

from pydantic import Field

from difffit_core.strict import Strict

TaskName = Literal["class-conditional", "text-to-image", "controlnet", "instruction"]
Holding = Literal["file", "label", "caption", "condition", "prompt", "answer"]  # a field of an example, see `dataset.Item`

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


class ControlNetConfig(Strict):
    """Pictures with captions and condition pictures; on a base without a ControlNet it starts as a copy of the UNet."""

    type: Literal["controlnet"]
    caption_with: CaptionWith = None


class InstructionConfig(Strict):
    """Prompts with answers on a language model."""

    type: Literal["instruction"]


TaskConfig = Annotated[
    ClassConditionalConfig | TextToImageConfig | ControlNetConfig | InstructionConfig,
    Field(discriminator="type"),
]

FIELDS_OF_TASK: dict[TaskName, tuple[Holding, ...]] = {
    "class-conditional": ("file", "label"),
    "text-to-image": ("file", "caption"),
    "controlnet": ("file", "condition", "caption"),
    "instruction": ("prompt", "answer"),
}  # what every example of a dataset must have


def fields_of(task: TaskConfig) -> tuple[Holding, ...]:
    """What every example must have for this task as it is set: captions need not be there where they are written."""
    writes = getattr(task, "caption_with", None) is not None
    return tuple(field for field in FIELDS_OF_TASK[task.type] if not (writes and field == "caption"))
