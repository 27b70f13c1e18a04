"""A checkpoint folder says its step by its name, however many digits that has, and by its seal whether it is whole."""

from pathlib import Path

import pytest

from difffit_core.errors import ModelError
from difffit_core.training.checkpoints import STATE, TENSORS, check_whole, newest_first, seal, step_name, step_of


def sealed(parent: Path, step: int) -> Path:
    folder = parent / step_name(step)
    folder.mkdir(parents=True)
    (folder / TENSORS).write_bytes(bytes(range(100)))
    seal(folder, step, seed=7)
    return folder


def test_the_highest_step_is_the_newest_whatever_its_digits(tmp_path: Path) -> None:
    steps = [999_999, 5, 1_000_000, 12_345_678, 123_456]
    for step in steps:
        sealed(tmp_path, step)
    for other in ("step-000009.part", "step-", "step-x", "step-3 (copy)"):
        (tmp_path / other).mkdir()
    assert [step_of(path) for path in newest_first(tmp_path)] == sorted(steps, reverse=True)
    assert [check_whole(path) for path in newest_first(tmp_path)] == sorted(steps, reverse=True)
    assert newest_first(tmp_path / "none") == []


@pytest.mark.parametrize("name", [STATE, TENSORS])
def test_one_wrong_byte_anywhere_is_found(tmp_path: Path, name: str) -> None:
    folder = sealed(tmp_path, 4)
    content = (folder / name).read_bytes()
    for position in range(len(content)):
        for wrong in (content[position] ^ 1, content[position] ^ 0x80):
            (folder / name).write_bytes(content[:position] + bytes([wrong]) + content[position + 1 :])
            with pytest.raises(ModelError) as caught:
                check_whole(folder)
            assert caught.value.code == "invalid_checkpoint"
    (folder / name).write_bytes(content)
    assert check_whole(folder) == 4


@pytest.mark.parametrize("name", [STATE, TENSORS])
@pytest.mark.parametrize("content", [None, b"", b"\0" * 100, b"[]", b"{}", b'{"step": 4, "sha256": null}', b"\xff"])
def test_a_file_that_is_gone_or_another_is_found(tmp_path: Path, name: str, content: bytes | None) -> None:
    folder = sealed(tmp_path, 4)
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(ModelError, match="step-000004 is damaged"):
        check_whole(folder)


def test_another_steps_checkpoint_is_not_this_steps(tmp_path: Path) -> None:
    sealed(tmp_path, 4).rename(tmp_path / step_name(5))
    with pytest.raises(ModelError):
        check_whole(tmp_path / step_name(5))
