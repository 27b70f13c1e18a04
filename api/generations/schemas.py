"""What POST /generate takes, and what generations show."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from api.generations.image_schemas import url_of
from api.kit.answers import RowError, columns
from difffit_core.spec.conversations import Message, Role
from difffit_core.spec.generation import AdapterStrength, Scheduler
from difffit_core.spec.strict import PositiveInt, Seed, Strict
from difffit_core.tasks.config import Frame
from jobstore.kit import tables

MAX_CONTENT = 20_000  # characters
Prompt = Annotated[str, Field(strict=True, max_length=MAX_CONTENT)]  # an empty one is what guidance leads away from
Side = Annotated[int, Field(strict=True, ge=8, le=16_384)]  # what a model makes of these is less


class AskedMessage(Strict):
    """One turn of a conversation."""

    role: Role
    content: Annotated[str, Field(strict=True, min_length=1, max_length=MAX_CONTENT)]
    input: Annotated[str, Field(strict=True, max_length=MAX_CONTENT)] = Field(
        "", description="What an instruction is about: it has a place of its own in Alpaca's frame"
    )

    def as_asked(self) -> Message:
        message: Message = {"role": self.role, "content": self.content}
        return message | {"input": self.input} if self.input else message


class GenerateRequest(Strict):
    """Exactly one of `adapter` and `base_model`, and of the other fields those that such a model takes."""

    adapter: str | None = Field(None, max_length=200)
    base_model: str | None = Field(None, max_length=200)
    labels: list[Annotated[str, Field(strict=True, max_length=200)] | Annotated[int, Field(strict=True)]] | None = Field(
        None, min_length=1, max_length=64, description="Classes by name or by index, of a class-conditional model"
    )
    prompts: list[Prompt] | None = Field(
        None, min_length=1, max_length=64, description="What every other model draws, or answers, one after the other"
    )
    messages: list[AskedMessage] | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="In place of `prompts`, of a language model: one conversation, which it goes on",
    )
    frame: Frame | None = Field(
        None,
        description="What prompts of a language model stand in: alpaca, chat (the base's own chat template) or none. Absent: "
        "as the adapter was trained, or of a base its chat template, where it has one",
    )
    negative_prompt: Prompt | None = Field(None, description="What pictures should not be like")
    condition_image: str | None = Field(
        None, description="For a ControlNet: the picture that all pictures follow, a PNG, JPEG or WebP file in base64"
    )
    n: PositiveInt = Field(1, description="Results of each label or prompt; 64 in all at most")
    steps: Annotated[int, Field(strict=True, ge=1, le=1000)] | None = None
    guidance_scale: Annotated[float, Field(ge=0, le=30)] | None = None
    width: Side | None = Field(
        None, description="Of pictures of prompts, with `height`; absent: as the model was trained, or as `condition_image` is"
    )
    height: Side | None = Field(None, description="In pixels; multiples of 64 for Stable Diffusion, of 16 for PixArt")
    seed: Seed | None = Field(None, description="Absent: a random one, which the answer tells")
    scheduler: Scheduler | None = None
    max_tokens: Annotated[int, Field(strict=True, ge=1, le=4096)] | None = Field(
        None, description="Of each text; with its prompt no more than the model reads. Absent: 256, or as many as have room"
    )
    temperature: Annotated[float, Field(ge=0, le=5)] | None = Field(
        None, description="Of a text: 0 takes the likeliest word each time; absent: 0.7"
    )
    top_p: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="Words are drawn among the likeliest that have so much of the probability; absent: 0.9"
    )
    adapter_strength: AdapterStrength | None = Field(
        None,
        description="0 is the base with the adapter's classes, 1 (if absent) the adapter as it was trained, 2 twice its change",
    )


class GenerationParameters(BaseModel):
    """As the request was resolved; null is what the model does not take."""

    labels: list[str] | None = Field(None, description="The class of each image")
    prompts: list[str] | None = Field(None, description="The prompt of each image or text")
    messages: list[Message] | None = Field(None, description="The conversation that the texts go on")
    frame: Frame | None = Field(None, description="What prompts or messages stood in, of a language model")
    negative_prompt: str | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    seed: int = Field(description="Of the first result; the next has the next number")
    scheduler: Scheduler | None = None
    width: int | None = Field(None, description="Null beside a `condition_image`: the images have its ratio")
    height: int | None = None
    max_tokens: int | None = Field(None, description="Null of texts: 256, or as many as have room after the prompt")
    temperature: float | None = None
    top_p: float | None = None
    adapter_strength: float = 1.0

    @classmethod
    def of(cls, parameters: dict[str, Any], class_names: list[str]) -> "GenerationParameters":
        names = dict(enumerate(class_names))
        labels = [names.get(index, str(index)) for index in parameters.get("labels", [])]
        told = {name: parameters.get(name) or None for name in ("prompts", "messages")}
        return cls.model_validate(parameters | {"labels": labels or None} | told)


class ImageView(BaseModel):
    id: str
    url: str
    label: str = Field(description="Its class or its prompt")
    seed: int
    width: int
    height: int


class TextView(BaseModel):
    prompt: str = Field(description="As it was sent, without a frame; of messages, the last one")
    text: str
    seed: int
    tokens: int
    finish_reason: Literal["stop", "length"] = Field(description="length: it was cut off, having as many tokens as it might")


class GenerationView(BaseModel):
    id: str
    status: Literal["queued", "running", "succeeded", "failed"]
    adapter: str | None
    base_model: str
    parameters: GenerationParameters
    images: list[ImageView]
    texts: list[TextView] = Field(description="Of a language model")
    error: RowError | None
    created_at: datetime
    finished_at: datetime | None

    @classmethod
    def of(cls, row: tables.Generation, class_names: list[str], images: list[tables.Image]) -> "GenerationView":
        return cls.model_validate(
            columns(row, "id status base_model error created_at finished_at")
            | {
                "adapter": row.adapter_id,
                "parameters": GenerationParameters.of(row.parameters, class_names),
                "images": [image.details | columns(image, "id width height") | {"url": url_of(image)} for image in images],
                "texts": row.texts or [],
            }
        )
