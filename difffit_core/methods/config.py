"""The method of a job: one of the methods' configs, told apart by `type`. Torch-free; API, client and trainer share it."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from difffit_core.errors import SpecError
from difffit_core.methods.adapter.config import ParallelAdapterConfig, SequentialAdapterConfig
from difffit_core.methods.bitfit.config import BitFitConfig
from difffit_core.methods.difffit.config import DiffFitConfig
from difffit_core.methods.full.config import FullConfig
from difffit_core.methods.lora.config import LoRAConfig
from difffit_core.methods.vpt.config import VPTDeepConfig

MethodConfig = Annotated[
    DiffFitConfig | BitFitConfig | FullConfig | LoRAConfig | ParallelAdapterConfig | SequentialAdapterConfig | VPTDeepConfig,
    Field(discriminator="type"),
]

PRESETS: dict[str, dict[str, Any]] = {"lora-r8": {"type": "lora", "rank": 8}, "lora-r16": {"type": "lora", "rank": 16}}


def named_method(name: str, settings: Mapping[str, Any] = MappingProxyType({})) -> MethodConfig:
    """The method that a command line names, by its type or a preset, with its settings. Raises SpecError for wrong ones."""
    try:
        return TypeAdapter[MethodConfig](MethodConfig).validate_python(PRESETS.get(name, {"type": name}) | dict(settings))
    except ValidationError as error:
        finding = error.errors()[0]
        if finding["type"] == "union_tag_invalid":
            known = f"{finding['ctx']['expected_tags']}, {', '.join(map(repr, PRESETS))}"
            raise SpecError(
                f"There is no method {name!r}; known are {known}.", code="unknown_method", param="method.type"
            ) from None
        field = ".".join(["method", *map(str, finding["loc"][1:2])])
        alike = [f["msg"] for f in error.errors() if f["loc"][1:2] == finding["loc"][1:2]]
        raise SpecError(f"{field}: {'; or '.join(dict.fromkeys(alike))}.", param=field) from None
