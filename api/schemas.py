"""What the API answers: one model a noun, and how a row becomes one. What it is asked is in `difffit_core.spec` and here."""

from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, Field
from sqlalchemy import Row

from api.errors import ErrorType
from difffit_core.base_models import BaseModelEntry, TrainingDefaults
from difffit_core.evaluation.metrics import DEFAULT_SAMPLES, Figure, MetricNames, SampleCount
from difffit_core.evaluation.spec import EvaluationSpec, HoldOut
from difffit_core.methods.config import MethodConfig
from difffit_core.spec import AdapterStrength, ResolvedHyperparameters, Scheduler, Seed, TrainingSpec
from difffit_core.strict import PositiveInt, Strict
from difffit_core.tasks.config import Holding, TaskConfig, TaskName
from jobstore import tables
from jobstore.keys import Scope
from jobstore.quotas import Limits, Usage, limits_of
from jobstore.settings import Settings
from jobstore.webhooks import EventType

Item = TypeVar("Item")


class ErrorDetail(BaseModel):
    type: ErrorType
    code: str = Field(description="Stable: programs may compare it")
    message: str = Field(description="What happened and what to do")
    param: str | None = Field(description="The field it is about, as a dotted path")


class ErrorAnswer(BaseModel):
    error: ErrorDetail


ERRORS = {
    400: "The body cannot be read",
    401: "No key, or an unknown one",
    403: "The key's scope does not allow it",
    404: "There is no such thing for this key",
    406: "The answer cannot take the form asked for",
    409: "The state of the thing forbids it",
    412: "The client speaks another version of the protocol",
    413: "The body is too large",
    415: "The body is of an unknown kind",
    422: "A field is wrong; `param` names it",
    429: "A limit of the tenant is reached; `param` names it and `Retry-After` says when to try again",
    460: "The checksum is another",
    500: "The server failed",
    503: "A part of the server is away",
}


Answers = dict[int | str, dict[str, Any]]  # of a route in OpenAPI, by status
REDIRECTED: Answers = {307: {"description": "The file is at `Location`, for some minutes and without a key"}}


def file_answer(media_type: str, description: str) -> Answers:
    return {200: {"content": {media_type: {}}, "description": description}}


def errors(*statuses: int) -> Answers:
    """The error statuses of a route; 401, 403, 422, 500 and 503 are every route's."""
    every = {401, 403, 422, 500, 503}
    return {status: {"model": ErrorAnswer, "description": ERRORS[status]} for status in sorted(every.union(statuses))}


class Listing(BaseModel, Generic[Item]):
    data: list[Item]
    has_more: bool


class RowError(BaseModel):
    """Why a dataset, a job or a generation failed."""

    code: str
    message: str
    param: str | None = None


class DatasetView(BaseModel):
    id: str
    name: str
    status: Literal["checking", "ready", "failed", "deleted"]
    format: str | None = Field(description="The layout that the upload named; null: the one that is recognised, see `report`")
    bytes: int = Field(description="Of the upload")
    examples: int | None = Field(description="Kept; null until the dataset is checked")
    classes: dict[str, int] | None = Field(description='Examples of each class; of the class "" where they have none')
    holds: list[Holding] | None = Field(description="What every example has, such as file, label, caption, condition")
    sha256: str | None = Field(description="Of the checked content: equal content, equal hash")
    report: dict[str, Any] | None = Field(description="What was kept, what was refused and why, duplicates, sizes")
    error: RowError | None
    created_at: datetime
    finished_at: datetime | None

    @classmethod
    def of(cls, row: tables.Dataset) -> "DatasetView":
        return cls.model_validate(
            _columns(row, "id name status format classes holds sha256 report error created_at finished_at")
            | {"bytes": row.upload_bytes, "examples": None if row.classes is None else sum(row.classes.values())}
        )


class UploadView(BaseModel):
    id: str
    name: str = Field(description="Of the dataset that it will be")
    offset: int = Field(description="Bytes that have arrived")
    length: int
    created_at: datetime
    expires_at: datetime = Field(description="Unless more arrives")

    @classmethod
    def of(cls, row: tables.Upload) -> "UploadView":
        return cls.model_validate(_columns(row, "id name offset length created_at expires_at"))


class SignedUpload(BaseModel):
    url: str = Field(description="PUT all bytes here, without a key; then make the dataset")
    expires_at: datetime = Field(description="Until then a PUT can begin")


class ModelView(BaseModel):
    id: str
    family: str
    task: TaskName = Field(description="What a job does that names no task")
    tasks: list[TaskName] = Field(description="All that can be trained on it")
    description: str
    license: str
    installed: bool = Field(description="False: its files are not on this server yet; see `difffit models fetch`")
    bytes: int
    image_size: int | None
    classes: list[str]
    defaults: TrainingDefaults

    @classmethod
    def of(cls, entry: BaseModelEntry) -> "ModelView":
        return cls(
            **entry.model_dump(include={"id", "family", "description", "license"}),
            task=entry.tasks[0],
            tasks=list(entry.tasks),
            installed=entry.installed,
            bytes=entry.size_bytes(),
            image_size=entry.image_size() if entry.installed else None,
            classes=entry.class_names() if entry.installed else [],
            defaults=entry.defaults,
        )


class Progress(BaseModel):
    step: int
    total_steps: int
    samples_per_second: float | None
    seconds_remaining: float | None
    queue_position: int | None = Field(description="1 is next; null unless the job is queued")


class Losses(BaseModel):
    train: float | None = None
    validation_base: float | None = Field(None, description="Of the untouched base model")
    validation: float | None = Field(None, description="Of the model as it is trained now")


class JobView(BaseModel):
    id: str
    name: str | None
    status: Literal["validating", "queued", "running", "pausing", "paused", "cancelling", "succeeded", "failed", "cancelled"]
    base_model: str
    dataset: str
    task: TaskConfig
    method: MethodConfig
    hyperparameters: ResolvedHyperparameters = Field(description='With a number for every "auto"')
    seed: int
    priority: int = Field(description="Among the tenant's own jobs; higher is sooner")
    max_duration: int | None = Field(description="Seconds with a worker, over all attempts, after which the job fails")
    progress: Progress
    losses: Losses
    trained_parameters: int | None
    total_parameters: int | None
    adapter: str | None
    attempt: int
    error: RowError | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def of(cls, row: tables.Job | Row[Any], queue_position: int | None, adapter: str | None) -> "JobView":
        return cls.model_validate(
            _columns(
                row, "id name status base_model priority max_duration losses trained_parameters total_parameters attempt error"
            )
            | _columns(row, "created_at started_at finished_at")
            | {key: row.training_spec[key] for key in ("task", "method", "hyperparameters", "seed")}
            | {
                "dataset": row.dataset_id,
                "adapter": adapter,
                "progress": _columns(row, "step total_steps samples_per_second seconds_remaining")
                | {"queue_position": queue_position},
            }
        )


class Plan(BaseModel):
    plan: dict[str, Any] = Field(description="The job as it would be trained, every value resolved")

    @classmethod
    def of(cls, spec: TrainingSpec) -> "Plan":
        return cls(plan=spec.model_dump(mode="json", exclude={"base_model_path", "feature_weights", "captioner_path"}))


class EventView(BaseModel):
    id: str
    sequence: int = Field(description="Counts from 1 within a job")
    type: str
    data: dict[str, Any]
    created_at: datetime

    @classmethod
    def of(cls, row: tables.JobEvent) -> "EventView":
        return cls.model_validate(_columns(row, "id sequence type data created_at"))


class Metric(BaseModel):
    step: int
    train_loss: float | None = None
    validation_loss: float | None = None
    base: bool | None = Field(None, description="True: the validation loss is of the untouched base model")
    figures: list[Figure] | None = Field(None, description="Of an evaluation, each with all that it depends on")


class Metrics(BaseModel):
    data: list[Metric]


class SampleView(BaseModel):
    id: str
    step: int
    labels: list[str] = Field(description="The class, caption or prompt of each row")
    media_type: str = Field(description="image/png, or text/plain of a language model")
    url: str

    @classmethod
    def of(cls, row: tables.Image) -> "SampleView":
        media_type = media_type_of(row)
        return cls(id=row.id, step=row.position, labels=row.details["labels"], media_type=media_type, url=url_of(row))


class CheckpointView(BaseModel):
    id: str
    step: int
    bytes: int
    created_at: datetime


Prompt = Annotated[str, Field(strict=True, min_length=1, max_length=20_000)]


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
    negative_prompt: Prompt | None = Field(None, description="What pictures should not be like")
    condition_image: str | None = Field(
        None, description="For a ControlNet: the picture that all pictures follow, a PNG, JPEG or WebP file in base64"
    )
    n: PositiveInt = Field(1, description="Results of each label or prompt; 64 in all at most")
    steps: Annotated[int, Field(strict=True, ge=1, le=1000)] | None = None
    guidance_scale: Annotated[float, Field(ge=0, le=30)] | None = None
    seed: Seed | None = Field(None, description="Absent: a random one, which the answer tells")
    scheduler: Scheduler | None = None
    max_tokens: Annotated[int, Field(strict=True, ge=1, le=4096)] | None = Field(None, description="Of each text; absent: 256")
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
    negative_prompt: str | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    seed: int = Field(description="Of the first result; the next has the next number")
    scheduler: Scheduler | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    adapter_strength: float = 1.0

    @classmethod
    def of(cls, parameters: dict[str, Any], class_names: list[str]) -> "GenerationParameters":
        names = dict(enumerate(class_names))
        labels = [names.get(index, str(index)) for index in parameters.get("labels", [])]
        return cls.model_validate(parameters | {"labels": labels or None, "prompts": parameters.get("prompts") or None})


class ImageView(BaseModel):
    id: str
    url: str
    label: str = Field(description="Its class or its prompt")
    seed: int
    width: int
    height: int


class TextView(BaseModel):
    prompt: str
    text: str
    seed: int
    tokens: int
    finish_reason: Literal["stop", "length"] = Field(description="length: it was cut off at max_tokens")


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
            _columns(row, "id status base_model error created_at finished_at")
            | {
                "adapter": row.adapter_id,
                "parameters": GenerationParameters.of(row.parameters, class_names),
                "images": [image.details | _columns(image, "id width height") | {"url": url_of(image)} for image in images],
                "texts": row.texts or [],
            }
        )


class EvaluationRequest(Strict):
    """Exactly one of `adapter` and `base_model`."""

    adapter: str | None = Field(None, max_length=200)
    base_model: str | None = Field(None, max_length=200)
    dataset: str = Field(max_length=200, description="Whose held-out pictures the generated ones are compared with")
    metrics: Annotated[MetricNames, Field(min_length=1)]
    samples: SampleCount = DEFAULT_SAMPLES
    steps: Annotated[int, Field(strict=True, ge=1, le=1000)] | None = None
    guidance_scale: Annotated[float, Field(ge=0, le=30)] | None = None
    seed: Seed = Field(0, description="Of the first picture; the next has the next number")
    scheduler: Scheduler | None = None
    validation_fraction: HoldOut | None = Field(
        None, description="Absent: that of the adapter's job, where it was trained on the same content, else 0.1"
    )


class EvaluationProgress(BaseModel):
    samples: int = Field(description="Pictures measured so far")
    total_samples: int


class EvaluationView(BaseModel):
    id: str
    status: Literal["queued", "running", "succeeded", "failed"]
    adapter: str | None
    base_model: str
    dataset: str
    parameters: EvaluationSpec
    progress: EvaluationProgress
    figures: list[Figure] | None = Field(description="Null until it has succeeded")
    error: RowError | None
    created_at: datetime
    finished_at: datetime | None

    @classmethod
    def of(cls, row: tables.Evaluation) -> "EvaluationView":
        return cls.model_validate(
            _columns(row, "id status base_model parameters figures error created_at finished_at")
            | {
                "adapter": row.adapter_id,
                "dataset": row.dataset_id,
                "progress": {"samples": row.samples_done, "total_samples": row.parameters["samples"]},
            }
        )


class ExportView(BaseModel):
    id: str
    adapter: str
    format: Literal["peft", "merged"]
    status: Literal["queued", "running"]
    created_at: datetime

    @classmethod
    def of(cls, row: tables.Export) -> "ExportView":
        return cls.model_validate(_columns(row, "id format status created_at") | {"adapter": row.adapter_id})


class KeyView(BaseModel):
    id: str
    name: str
    scope: Scope
    hint: str = Field(description="The last characters of the key")
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = Field(description="To a few minutes")

    @classmethod
    def of(cls, row: tables.ApiKey) -> "KeyView":
        return cls.model_validate(_columns(row, "id name scope hint created_at expires_at revoked_at last_used_at"))


class NewKeyView(KeyView):
    key: str | None = Field(None, description="The key itself; absent when the same request comes again")

    @classmethod
    def with_key(cls, row: tables.ApiKey, key: str) -> "NewKeyView":
        return cls(key=key, **KeyView.of(row).model_dump())


class WebhookView(BaseModel):
    id: str
    url: str
    events: list[EventType]
    created_at: datetime

    @classmethod
    def of(cls, row: tables.Webhook) -> "WebhookView":
        return cls.model_validate(_columns(row, "id url events created_at"))


class NewWebhookView(WebhookView):
    secret: str | None = Field(
        None, description="Checks the signatures, by the Standard Webhooks scheme; absent when the same request comes again"
    )

    @classmethod
    def with_secret(cls, row: tables.Webhook) -> "NewWebhookView":
        return cls.model_validate(_columns(row, "id url events created_at secret"))


class DeliveryView(BaseModel):
    id: str = Field(description="Sent as `webhook-id`, the same at every attempt")
    type: str
    status: Literal["pending", "delivered", "failed"]
    attempts: int
    next_try_at: datetime | None
    response_status: int | None
    error: str | None
    body: str = Field(description="Exactly what is sent")
    created_at: datetime
    delivered_at: datetime | None

    @classmethod
    def of(cls, row: tables.Delivery) -> "DeliveryView":
        names = "id type status attempts next_try_at response_status error body created_at delivered_at"
        return cls.model_validate(_columns(row, names))


class UsageView(BaseModel):
    limits: Limits
    usage: Usage


class TenantView(BaseModel):
    id: str
    name: str
    limits: Limits
    created_at: datetime

    @classmethod
    def of(cls, row: tables.Tenant, settings: Settings) -> "TenantView":
        return cls(limits=limits_of(row, settings), **_columns(row, "id name created_at"))


class NewTenantView(TenantView):
    key: NewKeyView | None = Field(None, description="The tenant's first admin key; absent when the same request comes again")

    @classmethod
    def with_key(cls, view: TenantView, key: NewKeyView) -> "NewTenantView":
        return cls(key=key, **view.model_dump())


def url_of(image: tables.Image) -> str:
    return f"/images/{image.id}"


def media_type_of(image: tables.Image) -> str:
    return "text/plain; charset=utf-8" if image.object_key.endswith(".txt") else "image/png"


def _columns(row: object, names: str) -> dict[str, Any]:
    return {name: getattr(row, name) for name in names.split()}
