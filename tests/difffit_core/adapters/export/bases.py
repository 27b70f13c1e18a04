"""The base of a case as a folder on disk."""

import copy
from dataclasses import replace
from pathlib import Path

from diffusers import DiTTransformer2DModel

from difffit_core.adapters.file import Adapter
from difffit_core.families.dit.network import untie_conditioning
from difffit_core.spec.catalog import WEIGHTS_FOLDER, BaseModelEntry
from tests.difffit_core.cases import Case
from tests.difffit_core.spec_dirs import write_base as write_base_for

CASES = {
    "dit": "class-conditional",
    "dit-spare": "class-conditional",
    "unet": "text-to-image",
    "controlnet": "controlnet",
    "pixart": "text-to-image-pixart",
    "llama": "instruction",
}


def write_base(family: str, case: Case, folder: Path) -> BaseModelEntry:
    """A folder of the family's layout, whose network is the case's model."""
    base = write_base_for(folder, CASES[family.removesuffix("-tied")])
    model = copy.deepcopy(case.model)
    if isinstance(model, DiTTransformer2DModel):
        untie_conditioning(model)
    model.save_pretrained(folder / WEIGHTS_FOLDER[base.family])  # type: ignore[operator]
    return base


def of_base(adapter: Adapter, base: BaseModelEntry) -> Adapter:
    """The adapter as one that was trained on the base in its folder."""
    return Adapter(replace(adapter.header, base_sha256=base.sha256()), adapter.tensors)
