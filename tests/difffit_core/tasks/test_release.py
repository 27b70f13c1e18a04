"""What only encodes examples and draws pictures takes no memory while a model trains."""

import weakref
from pathlib import Path
from typing import Any

import pytest

from difffit_core.spec.catalog import BaseModelEntry
from difffit_core.tasks.diffusion import DiffusionTask
from difffit_core.tasks.task import Tensors
from difffit_core.tasks.text_to_image import TextToImage
from tests.difffit_core.spec_dirs import CASES, TASKS, events_of, make_trainer, write_spec_dir


@pytest.mark.parametrize("case", [name for name in TASKS if name != "instruction"])
def test_autoencoder_and_text_encoder_are_gone_while_a_step_is_computed_and_back_for_samples(
    tmp_path: Path, tiny_bases: dict[str, BaseModelEntry], case: str
) -> None:
    spec = write_spec_dir(
        tmp_path, tiny_bases[case], "difffit", CASES[case][1], steps=3, sample_every=1, validation_fraction=0.0
    )
    trainer = make_trainer(tmp_path, spec)
    task, update = trainer.task, trainer.state.update
    assert isinstance(task, DiffusionTask)
    encode = task.encode
    loaded: list[weakref.ref[Any]] = []
    alive: list[int] = []

    def encode_and_look(*arguments: Any) -> Tensors:
        tensors = encode(*arguments)
        loaded.append(weakref.ref(task.vae))
        if isinstance(task, TextToImage) and case != "dreambooth":  # whose text encoder trains
            loaded.append(weakref.ref(task.text_encoder.encoder))
        return tensors

    def update_and_count() -> None:
        alive.append(sum(reference() is not None for reference in loaded) + ("vae" in vars(task)))
        update()

    task.encode = encode_and_look  # type: ignore[method-assign, assignment]
    trainer.state.update = update_and_count  # type: ignore[method-assign]
    trainer.run()
    assert loaded
    assert alive == [0, 0, 0]
    assert sum(event["type"] == "sample" for event in events_of(tmp_path)) == 4
