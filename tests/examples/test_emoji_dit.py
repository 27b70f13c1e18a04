"""The starter model from drawings to model card, in small: rendering, both trainings, going on, and the finished folder."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiTPipeline
from PIL import Image

from difffit_core.evaluation.mobilenet import MobileNetV2
from difffit_core.families.dit.network import load_transformer, null_label
from difffit_core.sampling.registry import load_generator
from difffit_core.spec.catalog import BaseModelEntry, load_catalog
from examples.emoji_dit import build, model_card
from examples.emoji_dit.drawings import Drawing, class_names, held_out_keys, load_drawings, save_drawings
from examples.emoji_dit.variants import FEATURES, draw_features, render, turn_hue

COLOURS = ("#e00000", "#00b000", "#0000e0", "#808000")


def drawing(number: int, set_: str) -> Drawing:
    """A disc of a colour of its own; the sets outline it or do not."""
    outline = 'stroke="black" stroke-width="4"' if set_ == "noto" else ""
    body = f'<circle cx="16" cy="16" r="{8 + number % 6}" fill="{COLOURS[number % 4]}" {outline}/>'
    subgroup = ("animal-mammal", "flag")[number % 2]
    return Drawing(set_, f"1f{number:03x}", f"disc-{number}", subgroup, (32.0, 32.0), body)


@pytest.fixture
def drawings() -> list[Drawing]:
    return [drawing(number, set_) for number in range(8) for set_ in ("noto", "twemoji")]


def test_a_drawing_without_changes_lies_on_white_where_it_was_drawn(drawings: list[Drawing]) -> None:
    pixels = render(drawings[1], [0.0] * len(FEATURES))  # a disc of radius 8 in a box of 32, so of 16 in one of 64

    assert pixels.shape == (64, 64, 3)
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[32, 32].tolist() == [224, 0, 0]
    assert pixels[32, 32 - 15].tolist() == [224, 0, 0]
    assert pixels[32, 32 - 18].tolist() == [255, 255, 255]


def test_variants_move_and_mirror_what_may_be_mirrored(drawings: list[Drawing]) -> None:
    right = [0.0, 1.0, *([0.0] * 6)]
    before, after = (np.argwhere(render(drawings[1], f)[:, :, 1] == 0).mean(axis=0) for f in ([0.0] * 8, right))
    assert after - before == pytest.approx([0, 5], abs=0.5)

    features = torch.cat([draw_features(drawings, number) for number in range(1, 20)])
    flags = torch.tensor([d.subgroup == "flag" for d in drawings]).repeat(19)
    assert set(features[~flags, 0].tolist()) == {0.0, 1.0}
    assert set(features[flags, 0].tolist()) == {0.0}
    assert not draw_features(drawings, 0).any()


def test_a_third_of_a_turn_of_the_hue_makes_red_green_and_leaves_greys() -> None:
    cosine, sine = -0.5, 3**0.5 / 2
    pixels = np.array([[[255, 0, 0], [255, 255, 255], [90, 90, 90]]], dtype=np.uint8)

    assert turn_hue(pixels, cosine, sine).tolist() == [[[0, 255, 0], [255, 255, 255], [90, 90, 90]]]


def test_drawings_are_kept_whole_and_held_out_by_code_point(drawings: list[Drawing], tmp_path: Path) -> None:
    save_drawings(drawings, tmp_path / "drawings.json.xz")

    assert load_drawings(tmp_path / "drawings.json.xz") == drawings
    assert held_out_keys(drawings) == {"1f000"}
    assert class_names(drawings) == [
        "animal-mammal",
        "flag",
        "animal-mammal-noto",
        "animal-mammal-twemoji",
        "flag-noto",
        "flag-twemoji",
        *(f"disc-{number}" for number in (0, 2, 4, 6)),  # flags are no things
    ]


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """MobileNetV2 with random weights, which the perceptual loss finds."""
    path = tmp_path / "mobilenet.pth"
    torch.save(MobileNetV2().state_dict(), path)
    monkeypatch.setattr("examples.emoji_dit.autoencoder.find_weights", lambda: path)
    monkeypatch.setattr("examples.emoji_dit.build.find_weights", lambda: path)
    return path


def run_build(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["build", "--small", "--device", "cpu", *arguments])
    build.main()


def test_the_whole_model_is_built_goes_on_and_draws_in_the_stock_pipeline(
    drawings: list[Drawing], weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, folder = tmp_path / "work", tmp_path / "base"
    work.mkdir()
    save_drawings(drawings, work / "drawings.json.xz")
    monkeypatch.setattr(model_card, "SHEET", (("animal-mammal",), ("disc-2",)))
    monkeypatch.setattr(model_card, "SAMPLES_PER_CLASS", 1)
    entry = load_catalog()["emoji-dit"]
    quick = entry.model_copy(update={"defaults": entry.defaults.model_copy(update={"sample_steps": 1})})
    monkeypatch.setattr(build, "load_catalog", lambda: {"emoji-dit": quick})
    common = ("--work", str(work), "--output", str(folder), "--minutes", "0.001")

    run_build(monkeypatch, *common, "--only", "autoencoder")
    run_build(monkeypatch, *common, "--only", "transformer")
    run_build(monkeypatch, *common)

    log = [json.loads(line) for line in (work / "transformer.jsonl").read_text().splitlines()]
    assert len({line["began"] for line in log}) == 2
    assert [line["step"] for line in log] == sorted(line["step"] for line in log)
    model = load_transformer(folder)
    assert null_label(model) == 1000
    pipeline = DiTPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    labels = pipeline.get_label_ids(["flag", "disc-4"])
    images = pipeline(labels, num_inference_steps=2, generator=torch.Generator().manual_seed(0)).images  # guided, by default
    assert [image.size for image in images] == [(64, 64)] * 2
    card = (folder / "README.md").read_text()
    for credit in ("Apache-2.0", "CC-BY 4.0", "Google", "Twitter", "Mozilla", "Streamline", "EmojiTwo"):
        assert credit in card
    assert "| what was held out | 2 |" in card
    with Image.open(folder / "samples.png") as sheet:
        assert sheet.size == (2 * (64 + 12) + 12, 64 + 18 + 12 + 12)


def test_the_card_names_the_packaged_base() -> None:
    entry: BaseModelEntry = load_catalog()["emoji-dit"]
    assert (entry.path / "README.md").read_text().count(f"# {entry.id}") == 1
    assert load_generator(entry, device="cpu").class_names == entry.class_names()
