"""What is kept of a base model's files is what they hold now."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from difffit_core.spec.catalog import BaseModelEntry, TrainingDefaults

DEFAULTS = TrainingDefaults(
    pretraining_learning_rate=1e-4, steps=1, batch_size=1, guidance_scale=1, sample_steps=1, scheduler="ddim"
)


@pytest.fixture
def base(tmp_path: Path) -> BaseModelEntry:
    for folder, config in (("transformer", {"sample_size": 32}), ("vae", {"block_out_channels": [8, 16]})):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text(json.dumps(config))
    (tmp_path / "transformer" / "model.safetensors").write_bytes(b"weights")
    return BaseModelEntry.in_folder("base", tmp_path, DEFAULTS)


def rewrite(file: Path, data: bytes, same_time: bool) -> None:
    """New content, written at the very time of the old one or a nanosecond later, however coarse the clock is."""
    was = file.stat()
    file.write_bytes(data)
    os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns + (0 if same_time else 1)))


@pytest.mark.parametrize(
    ("config", "same_time", "size"), [(b'{"sample_size": 16}', False, 32), (b'{"sample_size": 128}', True, 256)]
)
def test_a_config_that_was_changed_is_read_again(base: BaseModelEntry, config: bytes, same_time: bool, size: int) -> None:
    assert base.image_size() == 64
    rewrite(base.path / "transformer" / "config.json", config, same_time)
    assert base.image_size() == size


@pytest.mark.parametrize(("weights", "same_time"), [(b"WEIGHTS", False), (b"other weights", True)])
def test_weights_that_were_changed_have_another_hash(base: BaseModelEntry, weights: bytes, same_time: bool) -> None:
    assert base.sha256() == hashlib.sha256(b"weights").hexdigest()
    rewrite(base.path / "transformer" / "model.safetensors", weights, same_time)
    assert base.sha256() == hashlib.sha256(weights).hexdigest()


def test_the_first_file_that_is_missing_is_named(base: BaseModelEntry) -> None:
    def put(name: str) -> None:
        (base.path / name).parent.mkdir(exist_ok=True)
        (base.path / name).write_text("{}")

    for missing, file in (
        ("vae/*.safetensors", "vae/diffusion_pytorch_model.safetensors"),
        ("model_index.json", "model_index.json"),
        ("scheduler/scheduler_config.json", "scheduler/scheduler_config.json"),
    ):
        assert base.missing_file() == missing
        put(file)
    assert base.missing_file() is None
    with_texts = base.model_copy(update={"family": "pixart"})
    for missing, file in (
        ("text_encoder/config.json", "text_encoder/config.json"),
        ("text_encoder/*.safetensors", "text_encoder/model-00001-of-00002.safetensors"),
        ("text_encoder/*.safetensors", "text_encoder/model-00002-of-00002.safetensors"),
        ("tokenizer/tokenizer.json", "tokenizer/spiece.model"),
    ):
        assert with_texts.missing_file() == missing
        put(file)
    assert with_texts.missing_file() is None
    assert base.model_copy(update={"family": "llama"}).missing_file() == "config.json"


def test_a_file_that_was_not_changed_is_not_read_again(base: BaseModelEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    assert base.image_size() == 64

    def fail(path: Path) -> str:
        raise AssertionError(f"{path} is read again")

    monkeypatch.setattr(Path, "read_text", fail)
    assert base.image_size() == 64
