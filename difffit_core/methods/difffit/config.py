"""What a user may set of DiffFit."""

from typing import Literal

from pydantic import Field

from difffit_core.strict import Auto, Count, Strict


class DiffFitConfig(Strict):
    """DiffFit (arXiv 2304.06648): biases, norms, class table and scale factors γ."""

    type: Literal["difffit"]
    scale_blocks: Count | Auto = Field(
        "auto", description="How many blocks, counted from the first, carry scale factors; auto is the first half."
    )
