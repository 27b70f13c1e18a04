"""What a user may set of visual prompt tuning."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from difffit_core.families.registry import Family
from difffit_core.methods.base import Method
from difffit_core.spec.strict import Auto, Flag, PositiveInt

NO_SEQUENCE = "trained tokens need blocks that read one plain sequence of tokens, as a DiT's do"


class VPTDeepConfig(Method):
    """VPT-deep (arXiv 2203.12119): trained tokens in the first blocks, the final layer, and the class table."""

    unfit: ClassVar[Mapping[Family, str]] = dict.fromkeys(("unet", "controlnet", "pixart", "llama", "generic"), NO_SEQUENCE)

    type: Literal["vpt-deep"]
    tokens: PositiveInt = Field(1, description="How many tokens a block gets.")
    blocks: PositiveInt | Auto = Field(
        "auto", description="How many blocks, counted from the first, get tokens of their own; auto is five, or all of fewer."
    )
    final_layer: Flag = Field(
        True, description="Whether the layer behind the blocks is trained whole, as in the paper's count."
    )
