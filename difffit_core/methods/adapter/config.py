"""What a user may set of adapters."""

from typing import Annotated, Literal

from pydantic import Field

from difffit_core.methods.base import Method
from difffit_core.spec.strict import PositiveInt


class ParallelAdapterConfig(Method):
    """A bottleneck beside the MLP of each block (AdaptFormer, arXiv 2205.13535), and the class table."""

    type: Literal["adapter-parallel"]
    bottleneck: PositiveInt = Field(64, description="The width of the middle.")
    scale: Annotated[float, Field(strict=True, gt=0, le=100)] = Field(
        0.1, description="What the adapter's output is multiplied by; 0.1 is AdaptFormer's."
    )


class SequentialAdapterConfig(Method):
    """A bottleneck behind the MLP of each block (arXiv 1902.00751), and the class table."""

    type: Literal["adapter-sequential"]
    bottleneck: PositiveInt = Field(64, description="The width of the middle.")
