"""Classes of a dataset beside those that the base knows."""

from pathlib import Path

import pytest

from difffit_core.data.dataset import read_index
from difffit_core.spec.catalog import BaseModelEntry
from tests.difffit_core.spec_dirs import make_trainer, write_spec_dir
from tests.tiny_models import write_tiny_base


@pytest.mark.parametrize(
    ("known", "told"),
    [
        (("star", "tree"), []),
        (("cat", "dog"), []),
        (("Star", "tree"), ["'star' ('Star')"]),
        (("star, asterism", "fir, tree"), ["'star' ('star, asterism'), 'tree' ('fir, tree')"]),
    ],
)
def test_classes_that_the_base_knows_by_another_name_are_told(tmp_path: Path, known: tuple[str, str], told: list[str]) -> None:
    base: BaseModelEntry = write_tiny_base(tmp_path / "base", class_names=known)
    task = make_trainer(tmp_path / "job", write_spec_dir(tmp_path / "job", base)).task
    messages = task.warnings(read_index(tmp_path / "job" / "dataset"))
    assert [message.split("names: ")[1].split(". ")[0] for message in messages] == told
