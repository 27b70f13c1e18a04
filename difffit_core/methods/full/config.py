"""What a user may set of full fine-tuning: nothing."""

from typing import Literal

from difffit_core.strict import Strict


class FullConfig(Strict):
    """Full fine-tuning: every weight of the model is trained."""

    type: Literal["full"]
