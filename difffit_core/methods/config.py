"""The method of a job: one of the methods' configs, told apart by `type`. Torch-free; API, client and trainer share it."""

from typing import Annotated

from pydantic import Field

from difffit_core.methods.difffit.config import DiffFitConfig
from difffit_core.methods.full.config import FullConfig

MethodConfig = Annotated[DiffFitConfig | FullConfig, Field(discriminator="type")]
