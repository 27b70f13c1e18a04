"""What a user may set of BitFit: nothing."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from difffit_core.families.registry import Family
from difffit_core.methods.base import Method


class BitFitConfig(Method):
    """BitFit (arXiv 2106.10199): every bias, and the class table."""

    unfit: ClassVar[Mapping[Family, str]] = {"llama": "its layers have no biases; difffit gives the attentions new ones"}

    type: Literal["bitfit"]
