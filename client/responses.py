"""The JSON the server answers with, as types. The client passes it on unchanged, so nothing is checked or converted here."""

from typing import Any, Generic, TypedDict, TypeVar

Item = TypeVar("Item")


class Page(TypedDict, Generic[Item]):
    """One page of a list; the next one is `after` the last id."""

    data: list[Item]
    has_more: bool


class Problem(TypedDict):
    """Why something failed."""

    code: str
    message: str
    param: str | None


class RefusedFile(TypedDict):
    """One file of an upload that was not kept."""

    file: str
    code: str
    message: str


class DatasetReport(TypedDict):
    """What the check of an upload found."""

    files: int
    kept: int
    layout: str
    refused: list[RefusedFile]
    duplicates: list[dict[str, Any]]
    label_conflicts: list[Any]
    warnings: list[dict[str, str]]
    classes: dict[str, int]
    splits: dict[str, int]
    sizes: dict[str, list[int]]
    texts: dict[str, dict[str, int]]
    conditions: int


class Dataset(TypedDict):
    """`GET /datasets/{id}`."""

    id: str
    name: str
    status: str
    format: str | None
    bytes: int
    examples: int | None
    holds: list[str] | None
    frame: str | None
    classes: dict[str, int] | None
    sha256: str | None
    report: DatasetReport | None
    error: Problem | None
    created_at: str
    finished_at: str | None


class Model(TypedDict):
    """One entry of `GET /models`."""

    id: str
    family: str
    task: str
    tasks: list[str]
    description: str
    license: str
    installed: bool
    bytes: int
    image_size: int | None
    classes: list[str]
    defaults: dict[str, Any]


class Progress(TypedDict):
    """How far a job is."""

    step: int
    total_steps: int
    samples_per_second: float | None
    seconds_remaining: float | None
    queue_position: int | None


class Losses(TypedDict):
    """The newest losses of a job; `validation_base` is the untouched base's."""

    train: float | None
    validation_base: float | None
    validation: float | None


class Job(TypedDict):
    """`GET /jobs/{id}`."""

    id: str
    name: str | None
    status: str
    base_model: str
    dataset: str
    task: dict[str, Any]
    method: dict[str, Any]
    hyperparameters: dict[str, Any]
    seed: int
    priority: int
    max_duration: int | None
    progress: Progress
    losses: Losses
    trained_parameters: int | None
    total_parameters: int | None
    adapter: str | None
    attempt: int
    error: Problem | None
    created_at: str
    started_at: str | None
    finished_at: str | None


class Event(TypedDict):
    """One event of a job, as the stream gives it."""

    sequence: int
    type: str
    data: dict[str, Any]


class GeneratedImage(TypedDict):
    """One picture of a generation; `url` is a path on the server."""

    id: str
    url: str
    label: str
    seed: int
    width: int
    height: int


class GeneratedText(TypedDict):
    """One text of a generation."""

    prompt: str
    text: str
    seed: int
    tokens: int
    finish_reason: str


class Generation(TypedDict):
    """`GET /generate/{id}`."""

    id: str
    status: str
    adapter: str | None
    base_model: str
    parameters: dict[str, Any]
    images: list[GeneratedImage]
    texts: list[GeneratedText]
    error: Problem | None
    created_at: str
    finished_at: str | None


class Figure(TypedDict):
    """One number of an evaluation, with all that it depends on."""

    metric: str
    value: float
    std: float | None
    samples: int
    reference_images: int | None
    reference: dict[str, str]
    resolution: int
    extractor: str


class EvaluationProgress(TypedDict):
    """How many pictures are measured."""

    samples: int
    total_samples: int


class Evaluation(TypedDict):
    """`GET /evaluations/{id}`."""

    id: str
    status: str
    adapter: str | None
    base_model: str
    dataset: str
    parameters: dict[str, Any]
    progress: EvaluationProgress
    figures: list[Figure] | None
    error: Problem | None
    created_at: str
    finished_at: str | None


class Key(TypedDict):
    """One entry of `GET /keys`."""

    id: str
    name: str
    scope: str
    hint: str
    created_at: str
    expires_at: str | None
    revoked_at: str | None
    last_used_at: str | None


class NewKey(Key):
    """The answer that shows a key."""

    key: str


class Tenant(TypedDict):
    """One entry of `GET /tenants`."""

    id: str
    name: str
    limits: dict[str, int]
    created_at: str


class NewTenant(Tenant):
    """A tenant with its first admin key."""

    key: NewKey


class Usage(TypedDict):
    """`GET /usage`: how much of each limit is used."""

    limits: dict[str, int]
    usage: dict[str, int]


class Plan(TypedDict):
    """`POST /jobs?dry_run=true`: every "auto" resolved, nothing started; a null comes with the reason."""

    plan: dict[str, Any]
    estimate: dict[str, Any] | None
    no_estimate: str | None
    duration: dict[str, Any] | None
    no_duration: str | None
