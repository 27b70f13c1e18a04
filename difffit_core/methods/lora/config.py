"""What a user may set of LoRA."""

from typing import Annotated, Literal

from pydantic import Field

from difffit_core.methods.base import Method
from difffit_core.spec.strict import Auto, Flag, ModulePaths


class LoRAConfig(Method):
    """LoRA (arXiv 2106.09685): matrices of low rank beside the attention's Linears, and the class table."""

    type: Literal["lora"]
    rank: Annotated[int, Field(strict=True, ge=1, le=1024)] = Field(8, description="The paper compares with ranks 8 and 16.")
    alpha: Annotated[float, Field(strict=True, gt=0, le=4096)] | Auto = Field(
        "auto", description="The matrices' product is multiplied by alpha / rank; auto is the rank."
    )
    layers: Literal["qkv", "attention"] | ModulePaths | Auto = Field(
        "auto",
        description="Which Linears get matrices: query, key and value; the output too; or a list of ends of paths. "
        "Auto is qkv for a DiT, as in the paper, and attention for all others.",
    )
    fused: Flag | Auto = Field(
        "auto",
        description="Whether query, key and value share one down matrix, which is LoRA on their fused matrix; "
        "auto is yes for a DiT.",
    )
