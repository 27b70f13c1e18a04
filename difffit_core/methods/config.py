"""The method of a job: one of the methods' configs, told apart by `type`. Torch-free; API, client and trainer share it."""

from typing import Annotated

from pydantic import Field

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
