"""Pictures that keep their ratio: the sizes, the turns of the buckets, and training on them, exact in every way."""

import io
import shutil
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from difffit_core.data.buckets import bucket_sizes, nearest_size
from difffit_core.data.dataset import Item, by_size
from difffit_core.errors import SpecError
from difffit_core.spec.catalog import BaseModelEntry
from difffit_core.spec.job import TrainingSpec
from difffit_core.training.state import TrainingState, bucket_turn
from difffit_core.training.trainer import Trainer
from tests.difffit_core.spec_dirs import ADAPTER, CASES, events_of, make_trainer, run_here, write_spec_dir
from tests.difffit_core.tasks.test_every_task import first_gradients

Bases = dict[str, BaseModelEntry]

WITH_BUCKETS = ("text-to-image", "text-to-image-pixart", "dreambooth", "controlnet", "controlnet-copy")
each_task = pytest.mark.parametrize("case", WITH_BUCKETS)


def spec_dir(folder: Path, bases: Bases, case: str, **hyperparameters: object) -> TrainingSpec:
    """As every SPEC_DIR of the case, but the first picture is tall, and those of the second class, if there are any, wide."""
    spec = write_spec_dir(folder, bases[case], "difffit", CASES[case][1], aspect="buckets", **hyperparameters)
    resize(folder / "dataset", ["star/0.png"], (14, 29))
    resize(folder / "dataset", [f"tree/{number}.png" for number in range(10)], (29, 15))
    return spec


def resize(folder: Path, files: list[str], size: tuple[int, int]) -> None:
    for name in files:
        file = folder / name
        with Image.open(file) as picture:
            picture.resize(size).save(file)


@pytest.mark.parametrize(("resolution", "multiple"), [(16, 4), (256, 16), (512, 64), (1024, 16), (1024, 64)])
def test_sizes_are_of_one_area_and_cut_little_off(resolution: int, multiple: int) -> None:
    sizes = bucket_sizes(resolution, multiple)
    assert (resolution, resolution) in sizes
    assert {(height, width) for width, height in sizes} == set(sizes)
    assert all(width % multiple == height % multiple == 0 for width, height in sizes)
    assert all(0.75 <= width * height / resolution**2 <= 4 / 3 for width, height in sizes)
    for picture in ((4000, 3000), (3000, 2000), (1080, 1920), (640, 640)):
        width, height = nearest_size(picture, sizes)
        ratio = picture[0] * height / (picture[1] * width)
        assert min(ratio, 1 / ratio) > (0.95 if resolution // multiple > 8 else 0.79)


def test_sizes_of_stable_diffusion() -> None:
    wide = [size for size in bucket_sizes(512, 64) if size[0] >= size[1]]
    assert wide == [(512, 512), (576, 448), (640, 384), (704, 384), (768, 320), (896, 320), (1024, 256)]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_a_picture_that_is_turned_by_its_exif_data_is_tall(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 15)).save(tmp_path / f"turned.{suffix}", exif=exif)
    Image.new("RGB", (30, 15)).save(tmp_path / f"wide.{suffix}")
    items = [Item("a", file=f"turned.{suffix}"), Item("b", file=f"wide.{suffix}")]
    assert by_size(items, tmp_path, bucket_sizes(16, 4), lambda done, of: None) == {(12, 24): items[:1], (24, 12): items[1:]}


@pytest.mark.parametrize("counts", [[7], [1, 5, 14], [10, 10], [3, 1, 1, 1], [1, 999], [17, 4, 4, 2, 1, 1, 1]])
@pytest.mark.parametrize("seed", [0, 1])
def test_buckets_have_their_share_of_the_turns_at_any_time(counts: list[int], seed: int) -> None:
    had: Counter[int] = Counter()
    for step in range(3 * sum(counts)):
        bucket, number = bucket_turn(counts, seed, step)
        assert number == had[bucket]
        had[bucket] += 1
        for other, count in enumerate(counts):
            assert abs(had[other] - Fraction((step + 1) * count, sum(counts))) < 2
    assert [had[bucket] for bucket in range(len(counts))] == pytest.approx([3 * count for count in counts], abs=1)


def test_every_example_is_seen_equally_often(tmp_path: Path, tiny_bases: Bases) -> None:
    """That of a bucket of one too, whose batch is that example several times."""
    spec = spec_dir(tmp_path, tiny_bases, "text-to-image", batch_size=4)
    buckets = [[torch.arange(12)], [torch.arange(7)], [torch.arange(1)]]

    def seen(seed: int, steps: range) -> list[tuple[int, list[int]]]:
        state = TrainingState({"w": torch.nn.Parameter(torch.zeros(1))}, spec.hyperparameters, seed)
        found = []
        for state.step in steps:
            bucket, rows = state.batch_indices(buckets)
            found.append((bucket, rows.tolist()))
        return found

    everything = seen(3, range(100))  # 400 turns of 20 examples
    counts = Counter((bucket, row) for bucket, rows in everything for row in rows)
    assert len(counts) == 20
    assert all(abs(count - 20) <= 4 for count in counts.values())
    assert seen(3, range(70, 100)) == everything[70:]
    assert seen(4, range(100)) != everything


@each_task
def test_it_learns_and_shows_pictures_of_several_sizes(tmp_path: Path, tiny_bases: Bases, case: str) -> None:
    settings = {"steps": 12, "batch_size": 4, "learning_rate": 1e-2, "validation_fraction": 0.25, "validate_every": 12}
    spec = spec_dir(tmp_path, tiny_bases, case, sample_every=6, **settings)
    events = run_here(tmp_path, spec)
    losses = {event["base"]: event["loss"] for event in events if event["type"] == "validation"}
    assert losses[False] < losses[True]
    sheets = [tmp_path / event["path"] for event in events if event["type"] == "sample"]
    first, *_, last = [Image.open(io.BytesIO(sheet.read_bytes())) for sheet in sheets]
    assert first.tobytes() != last.tobytes()
    assert events[-1]["type"] == "succeeded"


@each_task
def test_every_example_is_in_the_bucket_of_its_picture(tmp_path: Path, tiny_bases: Bases, case: str) -> None:
    spec = spec_dir(tmp_path, tiny_bases, case, validation_fraction=0.0, batch_size=4)
    trainer = make_trainer(tmp_path, spec)
    trainer.task.load_frozen()
    train, held_out = trainer._load_data()
    assert held_out == []
    shapes = {bucket.size: (len(bucket), bucket.tensors["mean"].shape) for bucket in train}
    if case == "dreambooth":
        assert shapes == {(16, 16): (3, (3, 2, 4, 8, 8)), (12, 24): (1, (1, 2, 4, 12, 6))}
        assert {bucket.tensors["prior_mean"].shape for bucket in train} == {(3, 2, 4, 8, 8), (3, 2, 4, 12, 6)}
    else:
        assert shapes == {(24, 12): (10, (10, 2, 4, 6, 12)), (16, 16): (9, (9, 2, 4, 8, 8)), (12, 24): (1, (1, 2, 4, 12, 6))}
    files = [item.file for bucket in train for item in bucket.items]
    assert len(files) == len(set(files)) == spec.dataset.examples
    (lone,) = [bucket for bucket in train if bucket.size == (12, 24)]
    assert [item.file for item in lone.items] == ["star/0.png"]
    if "condition" in lone.tensors:
        assert lone.tensors["condition"].shape == (1, 3, 24, 12)
    warning = next(event["message"] for event in events_of(tmp_path) if "12x24 (1)" in event.get("message", ""))
    assert "24x12 (10)" not in warning


@each_task
def test_stopped_at_any_step_it_goes_on_exactly(tmp_path: Path, tiny_bases: Bases, case: str) -> None:
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    spec = spec_dir(straight, tiny_bases, case, steps=8, batch_size=3, micro_batch_size=2, validation_fraction=0.0)
    shutil.copytree(straight, stopped)
    run_here(straight, spec)
    for step in (1, 3, 6):
        assert run_here(stopped, spec, stop_at=step)[-1]["type"] == "stopped"
    run_here(stopped, spec)
    assert (straight / ADAPTER).read_bytes() == (stopped / ADAPTER).read_bytes()


@pytest.mark.usefixtures("in_fp32")
@pytest.mark.parametrize("case", ["text-to-image", "dreambooth", "controlnet"])
def test_portions_of_a_batch_add_up_to_the_same_gradient(tmp_path: Path, tiny_bases: Bases, case: str) -> None:
    spec = spec_dir(tmp_path, tiny_bases, case, batch_size=5)
    changed = spec.model_copy(update={"hyperparameters": spec.hyperparameters.model_copy(update={"micro_batch_size": 2})})
    expected, gradients = first_gradients(tmp_path, spec), first_gradients(tmp_path, changed)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-6, rtol=1e-4)


@pytest.mark.usefixtures("in_fp32")
def test_two_processes_share_a_batch_of_one_bucket(tmp_path: Path, tiny_bases: Bases) -> None:
    """Each by itself, what they exchange left out: the gradients add up to those of one process, in every step."""
    spec = spec_dir(tmp_path, tiny_bases, "text-to-image", batch_size=5, micro_batch_size=2)
    trainers = [make_trainer(tmp_path, spec) for _ in range(3)]
    for rank, trainer in enumerate(trainers[1:]):
        trainer.processes.count, trainer.processes.rank = 2, rank
    for step in range(4):
        alone, first, second = (gradients_of(trainer, step) for trainer in trainers)
        assert any(gradient.abs().max() > 1e-4 for gradient in alone.values())
        for name, gradient in alone.items():
            torch.testing.assert_close(first[name] + second[name], gradient, atol=1e-6, rtol=1e-4)


def gradients_of(trainer: Trainer, step: int) -> dict[str, Tensor]:
    """What this process adds to the gradients of a step."""
    found: dict[str, Tensor] = {}

    def keep() -> None:
        for name, parameter in trainer.state.parameters.items():
            found[name] = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
            parameter.grad = None

    trainer.state.update = keep  # type: ignore[method-assign]
    trainer.processes.add_up = lambda tensors: None  # type: ignore[method-assign]
    trainer.state.step = step
    train, _ = trainer._load_data()
    trainer._step(train)
    return found


@pytest.mark.parametrize(
    ("case", "settings", "param"),
    [
        ("class-conditional", {"aspect": "buckets"}, "hyperparameters.aspect"),
        ("instruction", {"aspect": "buckets"}, "hyperparameters.aspect"),
        ("instruction", {"aspect": "crop"}, "hyperparameters.aspect"),
        ("text-to-image", {"aspect": "buckets", "sampler": "balanced"}, "hyperparameters.sampler"),
    ],
)
def test_what_cannot_keep_its_ratio_is_refused(
    tmp_path: Path, tiny_bases: Bases, case: str, settings: dict[str, str], param: str
) -> None:
    with pytest.raises(SpecError) as refused:
        write_spec_dir(tmp_path, tiny_bases[case], "difffit", None, **settings)
    assert refused.value.param == param
