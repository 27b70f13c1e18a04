"""What a network is told beside the noise: captions, dropped captions, condition pictures and their mirror images."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from difffit_core.data.dataset import INDEX, Item, read_index, write_index
from difffit_core.errors import DatasetError
from difffit_core.families.text_encoders import most_tokens
from difffit_core.spec.catalog import BaseModelEntry
from difffit_core.tasks.diffusion import DiffusionTask
from difffit_core.tasks.task import Examples, Tensors
from tests.difffit_core.spec_dirs import make_trainer, write_spec_dir

Bases = dict[str, BaseModelEntry]


def loaded(folder: Path, base: BaseModelEntry) -> tuple[DiffusionTask, Examples, Tensors]:
    """A task, its training examples and the numbers of a batch of two."""
    trainer = make_trainer(folder, write_spec_dir(folder, base, label_dropout=0.0))
    task = trainer.task
    assert isinstance(task, DiffusionTask)
    task.load_frozen()
    (examples,), _ = trainer._load_data()
    return task, examples, task.draw(examples, 2, torch.Generator().manual_seed(0))


def open_zero_convolutions(task: DiffusionTask) -> None:
    """As training does sooner or later: until then no condition comes through."""
    for module in (task.model.controlnet_down_blocks, task.model.controlnet_cond_embedding.conv_out):
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.3)


def test_a_dropped_caption_is_the_empty_one(tmp_path: Path, tiny_bases: Bases, in_fp32: None) -> None:
    task, examples, drawn = loaded(tmp_path, tiny_bases["text-to-image"])
    rows = torch.tensor([0, 1])
    told = task.loss(examples, rows, drawn)
    dropped = task.loss(examples, rows, drawn | {"dropped": torch.tensor([True, False])})
    without = Examples(examples.items, examples.tensors | {"caption": torch.zeros_like(examples.tensors["caption"])})
    assert not torch.equal(told[0], dropped[0])
    torch.testing.assert_close(dropped[0], task.loss(without, rows, drawn)[0])
    torch.testing.assert_close(dropped[1], told[1])


def test_captions_that_are_too_long_are_counted_and_shown(tmp_path: Path, tiny_bases: Bases) -> None:
    spec = write_spec_dir(tmp_path, tiny_bases["text-to-image"])
    items = read_index(tmp_path / "dataset")
    task = make_trainer(tmp_path, spec).task
    assert task.warnings(items) == []
    most = most_tokens(tiny_bases["text-to-image"].path)
    long = [replace(item, caption=f"{item.caption}, {'and so on ' * most}") for item in items[:2]]
    (message,) = task.warnings([*long, *items[2:]])
    assert message.startswith(f"2 of 20 captions are longer than the {most} tokens")
    assert message.endswith("Shorten them: star/0.png, star/1.png.")


@pytest.mark.parametrize(("aspect", "small"), [("crop", ["wide.png", "tiny.png"]), ("buckets", ["tiny.png"])])
def test_pictures_that_are_enlarged_are_told(tmp_path: Path, tiny_bases: Bases, aspect: str, small: list[str]) -> None:
    """Of those whose size is known: with buckets a wide picture needs but the area of the square."""
    task = make_trainer(tmp_path, write_spec_dir(tmp_path, tiny_bases["text-to-image"], aspect=aspect)).task
    side = task.h.resolution
    assert side is not None
    sizes = {"exact": (side, side), "wide": (2 * side, side // 2), "tiny": (side, side // 2), "unknown": (0, 0)}
    items = [Item(name, f"{name}.png", width=width, height=height) for name, (width, height) in sizes.items()]
    (message,) = task.warnings(items)
    assert message.startswith(f"{len(small)} of 4 pictures are smaller than {side} pixels")
    assert f": {', '.join(small)}." in message


def test_a_mirrored_picture_has_its_condition_mirrored(tmp_path: Path, tiny_bases: Bases, in_fp32: None) -> None:
    """Mirroring everything, noise included, is training on a mirrored picture and a mirrored condition."""
    task, examples, drawn = loaded(tmp_path, tiny_bases["controlnet"])
    open_zero_convolutions(task)
    rows, mirrored = torch.tensor([0, 1]), torch.ones(2, dtype=torch.long)
    flipped = {name: examples.tensors[name].flip(1) for name in ("mean", "std")}  # the mirror image stands first
    flipped |= {"condition": examples.tensors["condition"].flip(-1)}
    expected = task.loss(Examples(examples.items, examples.tensors | flipped), rows, drawn | {"mirrored": 0 * mirrored})
    torch.testing.assert_close(task.loss(examples, rows, drawn | {"mirrored": mirrored}), expected)
    unturned = task.loss(examples, rows, drawn | {"mirrored": 0 * mirrored})
    assert not torch.allclose(unturned, expected)


def test_the_condition_reaches_the_output(tmp_path: Path, tiny_bases: Bases, in_fp32: None) -> None:
    task, examples, drawn = loaded(tmp_path, tiny_bases["controlnet"])
    black = Examples(examples.items, examples.tensors | {"condition": torch.zeros_like(examples.tensors["condition"])})
    rows = torch.tensor([0, 1])
    assert torch.equal(task.loss(examples, rows, drawn), task.loss(black, rows, drawn))  # before any training
    open_zero_convolutions(task)
    assert not torch.allclose(task.loss(examples, rows, drawn), task.loss(black, rows, drawn))


def test_a_row_without_what_the_task_needs_is_named(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    write_index(tmp_path, [{"file": "a.png", "caption": "an a"}, {"file": "a.png"}])
    with pytest.raises(DatasetError, match=r"Line 2 of index\.jsonl has no 'caption'"):
        read_index(tmp_path, ("file", "caption"))
    (tmp_path / INDEX).write_text('{"file": "a.png"}\n')
    with pytest.raises(DatasetError, match="Line 1"):
        read_index(tmp_path)
