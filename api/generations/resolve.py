"""A generate request resolved: what the model takes is there, what it does not take is not, and every setting has a value."""

import base64
import difflib
import secrets
from dataclasses import dataclass

from sqlalchemy.orm import Session

from api.evaluations.schemas import EvaluationRequest
from api.generations.schemas import GenerateRequest
from api.kit.dependencies import Resources, owned
from difffit_core.data.buckets import Size, size_name
from difffit_core.errors import SpecError
from difffit_core.sampling.picture_size import check_size
from difffit_core.spec.catalog import BaseModelEntry, get_base_model
from difffit_core.spec.generation import GenerationSpec, TextGenerationSpec
from difffit_core.tasks.config import Frame, InstructionConfig, TaskName
from jobstore.kit.tables import Adapter, Job

MAX_RESULTS = 64  # images or texts, in one request
TEMPERATURE, TOP_P = 0.7, 0.9  # where a request does not say
RANDOM_SEEDS = 2**31  # short enough to be copied by hand
SHOWN_LABELS = 20
COMPARED_LABELS, COMPARED_CHARACTERS = 1000, 60  # with a label that is not known; all that takes a second at most
DATA_URL = "data:image/"  # what may stand before the base64, as browsers write it
PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF")  # how PNG, JPEG and WebP begin

OF_PICTURES = {"steps", "guidance_scale", "scheduler", "width", "height"}
FIELDS: dict[TaskName, set[str]] = {
    "class-conditional": OF_PICTURES | {"labels"},
    "text-to-image": OF_PICTURES | {"prompts", "negative_prompt"},
    "dreambooth": OF_PICTURES | {"prompts", "negative_prompt"},
    "controlnet": OF_PICTURES | {"prompts", "negative_prompt", "condition_image"},
    "instruction": {"prompts", "messages", "frame", "max_tokens", "temperature", "top_p"},
}  # of a request, that models of a task take; all others are every model's


@dataclass(frozen=True)
class ResolvedModel:
    """The model that a request is for: a base and perhaps an adapter on it, which was made for a task."""

    base: BaseModelEntry
    adapter: Adapter | None
    task: TaskName
    resolution: int | None  # side of the square pictures that it was trained on; none of a language model
    frame: Frame | None = None  # what the prompts of a language model stand in

    @property
    def class_names(self) -> list[str]:
        """By index; empty unless it draws classes."""
        return self.base.class_names() if self.adapter is None else self.adapter.class_names


def find_model(
    session: Session, resources: Resources, request: GenerateRequest | EvaluationRequest, tenant: str
) -> ResolvedModel:
    """The model that the request names, which nobody deletes until the commit."""
    if (request.adapter is None) == (request.base_model is None):
        raise SpecError("Name either an `adapter` or a `base_model`.", code="one_model_only", param="adapter")
    if request.adapter is None:
        base = get_base_model(resources.catalog, str(request.base_model))
        return ResolvedModel(base, None, base.tasks[0], base.image_size())
    adapter = owned(session, Adapter, request.adapter, tenant, param="adapter", keep=True)
    plan = session.get_one(Job, adapter.job_id).plan
    base = get_base_model(resources.catalog, adapter.base_model)
    frame = plan.task.asked_in if isinstance(plan.task, InstructionConfig) else None
    return ResolvedModel(base, adapter, plan.task.type, plan.hyperparameters.resolution, frame)


def generation_spec(request: GenerateRequest, model: ResolvedModel) -> GenerationSpec | TextGenerationSpec:
    """The request with a value for every setting, those of a model that takes them.

    Raises SpecError (`not_for_this_model`, `missing_field`, `unknown_label`, `too_many_results`, `no_adapter`, `wrong_size`,
    `context_exceeded`).
    """
    _check_fields(request, model)
    given = len(request.labels or request.prompts or [""])  # messages are one conversation
    if given * request.n > MAX_RESULTS:
        raise SpecError(
            f"{given} with {request.n} each are more than {MAX_RESULTS}. Send several requests.",
            code="too_many_results",
            param="n",
        )
    seed = secrets.randbelow(RANDOM_SEEDS) if request.seed is None else request.seed
    strength = 1.0 if request.adapter_strength is None else request.adapter_strength
    prompts = [prompt for prompt in request.prompts or [] for _ in range(request.n)]
    if model.task == "instruction":
        return TextGenerationSpec(
            prompts=prompts,
            messages=[message.as_asked() for message in request.messages or []],
            n=request.n if request.messages else 1,
            frame=_frame(request, model),
            max_tokens=_max_tokens(request, model.base),
            temperature=TEMPERATURE if request.temperature is None else request.temperature,
            top_p=request.top_p or TOP_P,
            seed=seed,
            adapter_strength=strength,
        )
    defaults, size = model.base.defaults, _size(request, model, given * request.n)
    return GenerationSpec(
        labels=[index for label in request.labels or [] for index in [class_index(label, model.class_names)] * request.n],
        prompts=prompts,
        negative_prompt=request.negative_prompt or "",
        steps=defaults.sample_steps if request.steps is None else request.steps,
        guidance_scale=defaults.guidance_scale if request.guidance_scale is None else request.guidance_scale,
        seed=seed,
        scheduler=request.scheduler or defaults.scheduler,
        width=None if size is None else size[0],
        height=None if size is None else size[1],
        adapter_strength=strength,
    )


def _check_fields(request: GenerateRequest, model: ResolvedModel) -> None:
    """Raise SpecError unless the request has what models of this task need, and nothing that they do not take."""
    takes = FIELDS[model.task]
    for field in sorted(set().union(*FIELDS.values()) - takes):
        if getattr(request, field) is not None:
            raise SpecError(
                f"A {model.task} model takes no {field}; it takes {', '.join(sorted(takes))}.",
                code="not_for_this_model",
                param=field,
            )
    needs = takes & {"labels", "prompts", "condition_image"} - ({"prompts"} if request.messages else set())
    if request.messages and request.prompts:
        raise SpecError("Send either `prompts` or `messages`.", code="invalid_value", param="messages")
    for field in sorted(needs):
        if getattr(request, field) is None:
            raise SpecError(f"A {model.task} model needs {field}.", code="missing_field", param=field)
    if model.task == "instruction" and not all(prompt.strip() for prompt in request.prompts or []):
        raise SpecError("A language model has nothing to answer to an empty prompt.", code="invalid_value", param="prompts")
    if model.adapter is None and request.adapter_strength is not None:
        raise SpecError(
            "adapter_strength is of an `adapter`; a base model has none.", code="no_adapter", param="adapter_strength"
        )


def _frame(request: GenerateRequest, model: ResolvedModel) -> Frame:
    """As asked for, or as the adapter was trained; a base is asked in its own chat template, where it has one."""
    own = request.frame or model.frame or ("chat" if request.messages or model.base.has_chat_template() else "none")
    if request.messages and own == "none":
        raise SpecError(
            "Messages stand in a frame, and this model has none: send `prompts`, or name the `frame` alpaca or chat.",
            code="not_for_this_model",
            param="messages",
        )
    if request.messages and request.messages[-1].role == "assistant":
        raise SpecError(
            "The last of the messages is the assistant's own: end with what it is to answer.",
            code="invalid_value",
            param="messages",
        )
    return own


def _max_tokens(request: GenerateRequest, base: BaseModelEntry) -> int | None:
    """As asked for, where that leaves room for a prompt at all; a worker, which counts the prompts' tokens, checks the sum."""
    context = base.context_tokens()
    if request.max_tokens is not None and context is not None and request.max_tokens >= context:
        raise SpecError(
            f"{base.id} reads {context} tokens, a prompt and its answer together, and max_tokens {request.max_tokens} leaves "
            "none for a prompt. Ask for fewer.",
            code="context_exceeded",
            param="max_tokens",
        )
    return request.max_tokens


def _size(request: GenerateRequest, model: ResolvedModel, results: int) -> Size | None:
    """Width and height of the pictures; None where a worker takes them from the condition picture.

    Together they are no more than the most pictures of the model's own size: larger ones count as so many times more.
    """
    resolution = model.resolution
    assert resolution is not None  # whatever makes pictures has one
    for given, field in ((request.width, "height"), (request.height, "width")):
        if given is not None and getattr(request, field) is None:
            raise SpecError(f"Give width and height, or neither: {field} is missing.", code="missing_field", param=field)
    if request.width is None or request.height is None:
        return None if model.task == "controlnet" else (resolution, resolution)
    size = request.width, request.height
    check_size(size, resolution, model.base)
    if results * size[0] * size[1] > MAX_RESULTS * resolution**2:
        most = MAX_RESULTS * resolution**2 // (size[0] * size[1])
        raise SpecError(
            f"{results} pictures of {size_name(size)} are too many at once: {most} are allowed. Send several requests.",
            code="too_many_results",
            param="n",
        )
    return size


def class_index(label: str | int, names: list[str]) -> int:
    if isinstance(label, int) and 0 <= label < len(names):
        return label
    if isinstance(label, str) and label in names:
        return names.index(label)
    comparable = isinstance(label, str) and len(label) <= COMPARED_CHARACTERS
    near = difflib.get_close_matches(str(label), names[:COMPARED_LABELS], n=1) if comparable else []
    hint = f"Did you mean {near[0]!r}? " if near else ""
    shown = ", ".join(names[:SHOWN_LABELS]) + (", …" if len(names) > SHOWN_LABELS else "")
    raise SpecError(
        f"This model has no class {label!r}. {hint}It has {len(names)}, by index from 0: {shown}.",
        code="unknown_label",
        param="labels",
    )


def condition_picture(request: GenerateRequest) -> bytes | None:
    """The condition picture's file; None where there is none, or what was sent is none. A worker decodes it."""
    encoded = request.condition_image or ""
    if encoded.startswith(DATA_URL):
        encoded = encoded.partition(",")[2]
    try:
        data = base64.b64decode(encoded, validate=True)
    except ValueError:
        data = b""
    return data if data.startswith(PICTURES) else None


def check_condition(request: GenerateRequest, stored: str | None) -> None:
    """Raise SpecError (`not_an_image`) where something was sent as a condition picture that was not `stored`, being none."""
    if request.condition_image is not None and stored is None:
        raise SpecError("condition_image is no PNG, JPEG or WebP file in base64.", code="not_an_image", param="condition_image")
