"""What a user may set of DiffFit."""

from typing import Literal

from pydantic import Field

from difffit_core.methods.base import Method
from difffit_core.spec.strict import Auto, Count, Flag, ModulePath, ModulePaths


class DiffFitConfig(Method):
    """DiffFit (arXiv 2304.06648): biases, norms, class table and scale factors γ; auto is the setting of the paper."""

    type: Literal["difffit"]
    preset: Literal["attention", "branches", "layers"] | Auto = Field(
        "auto",
        description="Where γ stands, unless the fields below say it: on query, key, value and output of each attention; "
        "there and at the end of each residual branch; or on every Linear and convolution.",
    )
    scale_blocks: Count | Auto = Field("auto", description="How many blocks, counted from the first, carry scale factors.")
    scale_layers: Literal["none", "attention", "all"] | ModulePaths | Auto = Field(
        "auto", description="Which layers of those blocks carry γ; a list names them by the ends of their paths, as attn1.to_q."
    )
    branch_scales: Flag | Auto = Field("auto", description="Whether the layer that ends a branch carries a γ of the branch.")
    biases: Flag | Auto = Field("auto", description="Whether every bias of the base is trained; auto is yes.")
    norms: Literal["none", "layer", "all"] | Auto = Field(
        "auto", description="Which norms are trained: none, those over a token's channels, or group and batch norms too."
    )
    class_table: Flag | Auto = Field("auto", description="Whether the class table is trained; auto is yes where there is one.")
    new_biases: Literal["none", "attention", "all"] | Auto = Field(
        "auto", description="Which Linears without a bias get one that starts at zero."
    )
    train_modules: list[ModulePath] | Auto = Field(
        "auto", description="Modules that are trained whole; auto is the zero convolutions of a ControlNet."
    )
