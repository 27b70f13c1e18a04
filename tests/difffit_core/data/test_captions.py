"""Captions are written for the pictures that have none, once, and trained on like any others."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import BlipForConditionalGeneration, BlipProcessor

from difffit_core.data.captions import FILE, read_items, write_missing_captions
from difffit_core.data.dataset import INDEX
from difffit_core.data.encodings import FILE as ENCODED
from difffit_core.errors import ModelError
from difffit_core.spec.catalog import BaseModelEntry
from difffit_core.spec.job import TrainingSpec
from tests.difffit_core.spec_dirs import CPU, run_here, write_spec_dir
from tests.tiny_models import write_tiny_blip

TASK: dict[str, Any] = {"type": "text-to-image", "caption_with": "blip"}


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_blip(tmp_path_factory.mktemp("blip"))


@pytest.fixture
def spec(tmp_path: Path, tiny_bases: dict[str, BaseModelEntry], blip: Path) -> TrainingSpec:
    """Of a SPEC_DIR in which every second picture has lost its caption."""
    spec = write_spec_dir(tmp_path, tiny_bases["text-to-image"], "difffit", TASK, steps=2)
    index = tmp_path / "dataset" / INDEX
    rows = [json.loads(line) for line in index.read_text().splitlines()]
    for row in rows[::2]:
        del row["caption"]
    index.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return spec.model_copy(update={"captioner_path": str(blip)})


def test_what_is_missing_is_written_by_the_model_and_what_is_there_stays(
    tmp_path: Path, spec: TrainingSpec, blip: Path
) -> None:
    before = {item.file: item.caption for item in read_items(spec, tmp_path)}
    written = write_missing_captions(spec, tmp_path, CPU, lambda done, of: None)
    after = {item.file: item.caption for item in read_items(spec, tmp_path)}
    assert written.keys() == {file for file, caption in before.items() if not caption}
    assert all(after[file] == caption for file, caption in before.items() if caption)
    processor, model = BlipProcessor.from_pretrained(blip), BlipForConditionalGeneration.from_pretrained(blip)
    for file in sorted(written)[::5]:
        inputs = processor(images=Image.open(tmp_path / "dataset" / file).convert("RGB"), return_tensors="pt")
        with torch.no_grad():
            output = model.generate(**inputs, do_sample=False, max_new_tokens=30)
        assert after[file] == processor.decode(output[0], skip_special_tokens=True).strip() != ""


def test_a_job_tells_of_them_trains_and_writes_none_again(tmp_path: Path, spec: TrainingSpec) -> None:
    events = run_here(tmp_path, spec, stop_at=1)
    told = [event for event in events if event["type"] == "captioned"]
    assert [event["pictures"] for event in told] == [10]
    assert told[0]["examples"][0]["caption"]
    captions = (tmp_path / FILE).read_bytes()
    events = run_here(tmp_path, spec)
    assert events[-1]["type"] == "succeeded"
    assert sum(event["type"] == "captioned" for event in events) == 1
    assert (tmp_path / FILE).read_bytes() == captions


def test_another_job_finds_them_with_what_is_encoded(tmp_path: Path, spec: TrainingSpec) -> None:
    other = tmp_path / "other"
    other.mkdir()
    shutil.copytree(tmp_path / "dataset", other / "dataset")
    run_here(tmp_path, spec)
    shutil.copy(tmp_path / ENCODED, other / ENCODED)
    types = [event["type"] for event in run_here(other, spec)]
    assert "encodings_reused" in types
    assert not {"captioned", "encoding", "encoded"} & set(types)
    assert read_items(spec, other) == read_items(spec, tmp_path)


def test_a_run_that_was_interrupted_goes_on(tmp_path: Path, spec: TrainingSpec) -> None:
    whole = write_missing_captions(spec, tmp_path, CPU, lambda done, of: None)
    lines = (tmp_path / FILE).read_text().splitlines(keepends=True)
    (tmp_path / FILE).write_text("".join(lines[:3]))
    assert write_missing_captions(spec, tmp_path, CPU, lambda done, of: None).keys() == whole.keys() - {
        json.loads(line)["file"] for line in lines[:3]
    }
    assert (tmp_path / FILE).read_text() == "".join(lines)


@pytest.mark.parametrize(
    ("path", "code"), [(None, "no_captioner"), ("nowhere", "invalid_captioner"), ("base", "invalid_captioner")]
)
def test_without_a_blip_model_the_job_is_refused(tmp_path: Path, spec: TrainingSpec, path: str | None, code: str) -> None:
    other = {"nowhere": str(tmp_path / "nowhere"), "base": spec.base_model_path}.get(path or "")
    with pytest.raises(ModelError) as caught:
        write_missing_captions(spec.model_copy(update={"captioner_path": other}), tmp_path, CPU, lambda done, of: None)
    assert (caught.value.code, caught.value.param) == (code, "task.caption_with")
