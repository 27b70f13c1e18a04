"""A generate request resolved: labels by name or index in the model's label space, and a value for every setting."""

import difflib
import secrets

from api.schemas import GenerateRequest
from difffit_core.base_models import BaseModelEntry
from difffit_core.errors import SpecError
from difffit_core.spec import GenerationSpec
from jobstore.tables import Adapter

MAX_IMAGES = 64  # in one request
RANDOM_SEEDS = 2**31  # short enough to be copied by hand
SHOWN_LABELS = 20


def label_space(base: BaseModelEntry, adapter: Adapter | None) -> list[str]:
    """Class names by index."""
    return base.class_names() if adapter is None else adapter.class_names


def generation_spec(request: GenerateRequest, base: BaseModelEntry, names: list[str]) -> GenerationSpec:
    """Raises SpecError (`unknown_label`, `too_many_images`, `no_adapter`)."""
    if len(request.labels) * request.n > MAX_IMAGES:
        raise SpecError(
            f"{len(request.labels)} labels with {request.n} images each are more than {MAX_IMAGES}. Send several requests.",
            code="too_many_images",
            param="n",
        )
    if request.adapter is None and request.adapter_strength is not None:
        raise SpecError(
            "adapter_strength is of an `adapter`; a base model has none.", code="no_adapter", param="adapter_strength"
        )
    return GenerationSpec(
        labels=[index for label in request.labels for index in [class_index(label, names)] * request.n],
        steps=base.defaults.sample_steps if request.steps is None else request.steps,
        guidance_scale=base.defaults.guidance_scale if request.guidance_scale is None else request.guidance_scale,
        seed=secrets.randbelow(RANDOM_SEEDS) if request.seed is None else request.seed,
        scheduler=request.scheduler or base.defaults.scheduler,
        adapter_strength=1.0 if request.adapter_strength is None else request.adapter_strength,
    )


def class_index(label: str | int, names: list[str]) -> int:
    if isinstance(label, int) and 0 <= label < len(names):
        return label
    if isinstance(label, str) and label in names:
        return names.index(label)
    near = difflib.get_close_matches(label, names, n=1) if isinstance(label, str) else []
    hint = f"Did you mean {near[0]!r}? " if near else ""
    shown = ", ".join(names[:SHOWN_LABELS]) + (", …" if len(names) > SHOWN_LABELS else "")
    raise SpecError(
        f"This model has no class {label!r}. {hint}It has {len(names)}, by index from 0: {shown}.",
        code="unknown_label",
        param="labels",
    )
