"""What the config of every method says beside its settings: which families it fits, and its learning rate. Torch-free."""

from collections.abc import Mapping
from typing import ClassVar

from difffit_core.errors import SpecError
from difffit_core.families.registry import Family
from difffit_core.spec.strict import Strict

FAMILY_OF_CATALOG: Mapping[str, str] = {"stable-diffusion": "unet"}  # a catalog names a pipeline, a method sees its network


class Method(Strict):
    """A method's config; each method narrows `type` to its own name."""

    unfit: ClassVar[Mapping[Family, str]] = {}  # families it cannot be put into, and why
    rate_factor: ClassVar[float] = 10.0  # of the pre-training rate, for whatever trains a small part (paper, section 4.1)
    rate_factors: ClassVar[Mapping[Family, float]] = {"llama": 1.0}  # LLaMA-7B: 3e-4 both times (supplement)

    type: str

    def check_fits(self, family: str) -> None:
        """Raise SpecError unless the method can be put into models of `family`, a catalog's or a model's."""
        reason = self.unfit.get(_model_family(family))
        if reason is not None:
            raise SpecError(
                f"The method {self.type} does not fit a {family} model: {reason}.",
                code="method_does_not_fit",
                param="method.type",
            )

    def learning_rate(self, pretraining_rate: float, family: str) -> float:
        """What "auto" means for this method on a base that was pre-trained at `pretraining_rate`."""
        return pretraining_rate * self.rate_factors.get(_model_family(family), self.rate_factor)


def _model_family(family: str) -> Family:
    """The family of the network that a catalog's family of pipelines trains."""
    return FAMILY_OF_CATALOG.get(family, family)  # type: ignore[return-value]
