"""A `models.toml` of tiny bases in their on-disk formats, as an operator would write it."""

from pathlib import Path

from tests.difffit_core.spec_dirs import TASKS, write_base

MODEL = """
[[model]]
id = "tiny-{task}"
family = "{family}"
description = "Random weights"
license = "Apache-2.0"
path = "{task}"
[model.defaults]
pretraining_learning_rate = 1e-3
steps = 4
batch_size = 4
guidance_scale = 3.0
sample_steps = 2
scheduler = "ddim"
"""


def write_catalog(folder: Path) -> Path:
    """The bases in folders of their own, and the catalog's path."""
    bases = {task: write_base(folder / task, task) for task in TASKS}
    catalog = folder / "models.toml"
    catalog.write_text("".join(MODEL.format(task=task, family=base.family) for task, base in bases.items()))
    return catalog
