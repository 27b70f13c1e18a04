"""What a user may set of full fine-tuning: nothing."""

from typing import ClassVar, Literal

from difffit_core.methods.base import Method


class FullConfig(Method):
    """Full fine-tuning: every weight of the model is trained."""

    rate_factor: ClassVar[float] = 1.0  # the pre-training rate (paper, section 4.1)

    type: Literal["full"]
