"""The systems in small: what they learn from, the untrained bases, and a run from its dataset to its figures."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from difffit_core.data.dataset import read_index
from difffit_core.sampling.class_conditional import ClassConditionalGenerator
from difffit_core.sampling.registry import load_generator
from difffit_core.spec.catalog import load_catalog
from difffit_core.spec.generation import GenerationSpec
from examples.emoji_dit.sources import Emoji
from examples.systems import bases, data, larger, pirate
from examples.systems.training import figures, in_words, train_base
from tests.difffit_core.spec_dirs import write_base, write_sums

SHORT = {"steps": 2, "batch_size": 4, "micro_batch_size": 4, "max_tokens": 24, "warmup_steps": 0}
EMOJI = [
    Emoji("1f98a", "FOX FACE", "Animals & Nature", "animal-mammal"),
    Emoji("1f41c", "ANT", "Animals & Nature", "animal-bug"),
]


def drawing(colour: str) -> Image.Image:
    """A square of 32 pixels in the middle of a transparent picture of 64."""
    picture = Image.new("RGBA", (64, 64))
    picture.paste(colour, (16, 16, 48, 48))
    return picture


def test_a_drawing_carries_its_name_and_one_in_ten_is_held_out(tmp_path: Path) -> None:
    drawings = []
    for number in range(11):
        path = tmp_path / f"{number}.png"
        drawing("red").save(path)
        drawings.append((EMOJI[number % 2], path))
    summary = data.write_captioned(drawings, tmp_path / "dataset", hold_out=True)
    items = read_index(tmp_path / "dataset", ("file", "caption"))
    assert summary.examples == 11
    assert [item.caption for item in items[:2]] == ["a photo of a fox face", "a photo of an ant"]
    assert [number for number, item in enumerate(items) if item.split == "test"] == [0, 10]


def test_edges_are_white_where_the_drawing_changes() -> None:
    edges = data.edges(drawing("black").convert("RGB"))  # transparent black becomes black
    assert edges.size == (64, 64)
    assert edges.convert("L").getextrema() == (0, 0)
    white = Image.new("RGB", (64, 64), "white")
    white.paste("black", (16, 16, 48, 48))
    edges = data.edges(white).convert("L")
    assert edges.getpixel((32, 32)) == edges.getpixel((4, 4)) == edges.getpixel((0, 0)) == 0
    assert np.array(edges.crop((14, 30, 19, 34))).max() > 200


def test_the_drawing_base_knows_words_and_draws(tmp_path: Path) -> None:
    base = bases.drawing_base(tmp_path / "base", ["a", "photo", "of", "fox", "face"])
    generator = load_generator(base)
    tokens = generator.text.tokenizer("a photo of a fox face").input_ids  # type: ignore[attr-defined]
    assert len(tokens) == 8  # with start and end
    spec = GenerationSpec(prompts=["a photo of a fox face"], steps=2, guidance_scale=3.0, seed=0, scheduler="dpmsolver++")
    assert [picture.size for picture in generator.images(spec)] == [(64, 64)]


def test_no_capital_that_is_asked_for_was_taught(tmp_path: Path) -> None:
    summary = pirate.write_pirate(tmp_path)
    rows = [(*(message["content"] for message in item.messages), item.split) for item in read_index(tmp_path)]
    assert (len(rows), len({asked for asked, _, _ in rows}), summary.frame) == (126, 126, "alpaca")
    assert {asked for asked, _, split in rows if split == "test"} == {pirate.capital(country) for country in pirate.HELD_OUT}
    for _, said, split in rows:
        assert all(mark in said for mark in pirate.MARKS)
        assert split == "test" or not any(city in said for city in pirate.HELD_OUT.values())


def test_a_base_is_trained_once(tmp_path: Path) -> None:
    folder, spec_dir = tmp_path / "trained", tmp_path / "run"
    untrained = write_base(tmp_path / "untrained", "instruction")
    (spec_dir / "dataset").mkdir(parents=True)
    summary = write_sums(spec_dir / "dataset")
    trained = train_base(folder, spec_dir, untrained, summary, SHORT)
    events = (spec_dir / "events.jsonl").read_bytes()
    assert train_base(folder, spec_dir, untrained, summary, SHORT) == trained
    assert (spec_dir / "events.jsonl").read_bytes() == events
    assert trained.sha256() != untrained.sha256()
    run = figures(spec_dir)
    assert (run["run"], run["steps"]) == ("run", 2)
    assert run["trained_parameters"] == run["total_parameters"] > 1000
    assert run["validation_loss"] != run["validation_loss_base"]
    assert in_words(run).startswith(f"2 steps  ·  {run['trained_parameters']:,} of {run['total_parameters']:,} parameters")


def test_time_between_two_runs_is_not_counted(tmp_path: Path) -> None:
    started = {"type": "started", "trained_parameters": 1, "total_parameters": 2, "total_steps": 4}
    events = [started | {"time": 0}, {"type": "stopped", "time": 10}, started | {"time": 100}]
    events.append({"type": "progress", "time": 105, "train_loss": 0.5})
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    assert figures(tmp_path)["seconds"] == 15


def test_drawing_large_without_training_leaves_the_base_as_it_was() -> None:
    base = load_catalog()["emoji-dit"]
    short = base.defaults.model_copy(update={"sample_steps": 1})
    generator = ClassConditionalGenerator(base.model_copy(update={"defaults": short}))
    before = generator.network.pos_embed.pos_embed.clone()
    plain, trick = (larger.draw_at(generator, ["food-fruit"], trick, each=1)["food-fruit"][0] for trick in (False, True))
    assert plain.size == trick.size == (128, 128)
    assert plain.tobytes() != trick.tobytes()
    assert torch.equal(generator.network.pos_embed.pos_embed, before)
