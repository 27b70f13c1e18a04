"""What DiffFit trains in each family of models: the paper's setting, a preset, and what a config says itself. Torch-free."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal

from difffit_core.families.registry import ZERO_CONVOLUTIONS, Family
from difffit_core.methods.difffit.config import DiffFitConfig

HALF, ALL = Fraction(1, 2), Fraction(1)


@dataclass(frozen=True)
class Policy:
    """A config with nothing left to decide, but for the number of blocks of a model."""

    scale_layers: Literal["none", "attention", "all"] | Sequence[str]
    branch_scales: bool
    scaled_share: Fraction  # of the blocks, counted from the first
    norms: Literal["none", "layer", "all"]
    biases: bool = True
    new_biases: Literal["none", "attention", "all"] = "none"
    train_modules: Sequence[str] = ()


# Sources: the paper and its supplement's sections on DreamBooth, ControlNet and LLaMA. LLaMA-7B has γ in layers 0-13 of 32.
FAMILY_POLICIES: dict[Family, Policy] = {
    "dit": Policy("attention", branch_scales=True, scaled_share=HALF, norms="all"),
    "unet": Policy("attention", branch_scales=False, scaled_share=ALL, norms="layer"),
    "controlnet": Policy(
        "all",
        branch_scales=False,
        scaled_share=ALL,
        norms="none",
        train_modules=ZERO_CONVOLUTIONS,
    ),
    "pixart": Policy("attention", branch_scales=True, scaled_share=HALF, norms="all"),  # a DiT with a cross attention a block
    "llama": Policy("attention", branch_scales=False, scaled_share=Fraction(14, 32), norms="none", new_biases="attention"),
    "generic": Policy("all", branch_scales=False, scaled_share=HALF, norms="all"),
}
PRESETS: dict[str, dict[str, Any]] = {
    "auto": {},
    "attention": {"scale_layers": "attention", "branch_scales": False, "norms": "layer"},
    "branches": {"scale_layers": "attention", "branch_scales": True, "norms": "all"},
    "layers": {"scale_layers": "all", "branch_scales": False, "norms": "all"},
}
OWN_FIELDS = ("scale_layers", "branch_scales", "norms", "biases", "new_biases", "train_modules")


def policy_of(config: DiffFitConfig, family: Family) -> Policy:
    """What `config` means for a family: its own fields win over its preset, and that over the paper's setting."""
    own = {name: getattr(config, name) for name in OWN_FIELDS if getattr(config, name) != "auto"}
    return replace(FAMILY_POLICIES[family], **(PRESETS[config.preset] | own))
