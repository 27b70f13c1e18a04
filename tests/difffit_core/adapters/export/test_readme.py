"""Each README's lines alone, with stock libraries, draw the service's own picture."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from difffit_core.adapters.export.merged import export_merged
from difffit_core.adapters.export.peft import export_peft
from difffit_core.adapters.file import Adapter
from difffit_core.sampling.registry import load_generator
from difffit_core.spec.catalog import BaseModelEntry
from difffit_core.spec.generation import GenerationSpec, Scheduler
from tests.difffit_core.adapters.export.bases import of_base, write_base
from tests.difffit_core.cases import make_case

SEED = 11
SCHEDULERS: list[Scheduler] = ["ddim", "dpmsolver++"]
# A base's own scheduler may say otherwise than the service: these lines must not depend on it.
OTHERWISE = '"timestep_spacing": "leading", "clip_sample": true, "thresholding": true, "steps_offset": 1, '


def code_of(readme: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", readme.read_text(), re.DOTALL)


def service_picture(base: BaseModelEntry, adapter: Adapter, family: str, condition: Image.Image) -> Image.Image:
    generator = load_generator(base, "cpu")
    generator.use(adapter)
    side = generator.resolution()
    told: dict[str, Any] = {"labels": [0]} if base.family == "dit" else {"prompts": ["a prompt"], "width": side, "height": side}
    defaults = base.defaults
    spec = GenerationSpec(
        **told,
        steps=defaults.sample_steps,
        guidance_scale=defaults.guidance_scale,
        scheduler=defaults.scheduler,
        seed=SEED,
    )
    return generator.images(spec, condition if family == "controlnet" else None)[0]


def drawn_by(readme: Path, base: BaseModelEntry, condition: Image.Image) -> Image.Image:
    scope: dict[str, Any] = {"BASE": str(base.path), "FOLDER": str(readme.parent), "SEED": SEED, "CONDITION": condition}
    loading, drawing = code_of(readme)
    exec(loading, scope)
    scope["pipeline"].set_progress_bar_config(disable=True)
    exec(drawing, scope)
    picture: Image.Image = scope["picture"]
    return picture


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("form", ["merged", "peft"])
@pytest.mark.parametrize(
    ("family", "method"),
    [
        ("dit", "difffit"),
        ("dit-spare", "difffit"),
        ("unet", "difffit"),
        ("unet", "lora"),
        ("pixart", "difffit"),
        ("controlnet", "difffit"),
    ],
)
def test_the_readmes_lines_draw_the_services_picture(
    tmp_path: Path, family: str, method: str, form: str, scheduler: Scheduler
) -> None:
    case = make_case(family)
    base = write_base(family, case, tmp_path / "base")
    config = base.path / "scheduler" / "scheduler_config.json"
    config.write_text(re.sub(r'"(timestep_spacing|clip_sample|thresholding|steps_offset)":[^,}]*,\s*', "", config.read_text()))
    config.write_text(config.read_text().replace("{", "{" + OTHERWISE, 1))
    base = base.model_copy(update={"defaults": base.defaults.model_copy(update={"scheduler": scheduler, "sample_steps": 4})})
    adapter = of_base(case.adapter(class_names=["star", "tree"] if case.names else None, type=method), base)
    condition = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8))
    folder = tmp_path / "export"
    {"merged": export_merged, "peft": export_peft}[form](base, adapter, folder)
    mine = np.asarray(service_picture(base, adapter, family, condition)).astype(int)
    theirs = np.asarray(drawn_by(folder / "README.md", base, condition)).astype(int)
    without = np.asarray(service_picture(base, of_nothing(adapter), family, condition)).astype(int)
    assert mine.shape == theirs.shape
    assert abs(mine - theirs).max() <= 1  # rounding
    assert abs(mine - without).max() > 1


def of_nothing(adapter: Adapter) -> Adapter:
    """The same with values that change much less: what a folder that is loaded wrongly would draw."""
    return Adapter(adapter.header, {name: tensor * 0.5 for name, tensor in adapter.tensors.items()})
