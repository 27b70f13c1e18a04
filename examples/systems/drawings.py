"""Captions, DreamBooth and ControlNet on the small base that draws: each a run with DiffFit, and a sheet beside the base."""

from pathlib import Path
from typing import Any

from PIL import Image

from difffit_core.adapters.file import Adapter, read_adapter
from difffit_core.sampling.generator import Generator
from difffit_core.sampling.registry import load_generator
from difffit_core.spec.catalog import BaseModelEntry
from difffit_core.spec.generation import GenerationSpec
from examples.contact_sheet import Group, contact_sheet
from examples.emoji_dit.sources import Emoji, on_white
from examples.systems import bases, data
from examples.systems.training import Places, figures, in_words, train, train_base

DIFFFIT = {"type": "difffit"}  # as the paper has it
LAYERS = {"type": "difffit", "preset": "layers"}  # γ on the convolutions too: only one level of so small a UNet has attention
IDENTIFIER = "<subject>"
GUIDANCE = 1.5  # more exaggerates what was learned from few pictures
STEERED_GUIDANCE = 1.0  # more leads back to the drawing that the base knows by heart for a name
SHOWN_TRAINED, SHOWN_HELD_OUT = 4, 2  # rows of the sheet of captions
SHOWN_EDGES = 6

Row = list[Image.Image]


def drawing_base(places: Places) -> tuple[BaseModelEntry, dict[str, Any]]:
    """A Stable Diffusion of 10 M parameters that has learned 170 drawings of Noto with their names."""
    spec_dir = places.work / "drawing-base"
    untrained = bases.drawing_base(places.work / "drawing-untrained", data.caption_words(places.modules))
    summary = data.write_captioned(data.noto(places.modules), spec_dir / "dataset")
    settings = {"steps": 3200, "batch_size": 32, "horizontal_flip": True, "validation_fraction": 0.0}
    base = train_base(places.work / "drawing", spec_dir, untrained, summary, settings)
    return base, figures(spec_dir)


def captions(places: Places) -> dict[str, Any]:
    """Fluent's way of drawing faces and fruits, learned from nine in ten of them and shown on the others too."""
    base, _ = drawing_base(places)
    spec_dir = places.work / "captions"
    fluent = [(emoji, path) for emoji, path in data.fluent(places.modules) if data.is_face_or_fruit(emoji)]
    summary = data.write_captioned(fluent, spec_dir / "dataset", hold_out=True)
    settings: dict[str, Any] = {"steps": 2000, "batch_size": 16, "learning_rate": 4e-3, "horizontal_flip": True}
    settings |= {"lr_schedule": "warmup-stable-decay"}
    adapter = read_adapter(train(spec_dir, base, summary, settings, {"type": "text-to-image"}, LAYERS))
    run = figures(spec_dir)
    generator = load_generator(base)
    held_out = [pair for number, pair in enumerate(fluent) if data.is_held_out(number)]
    trained = [pair for number, pair in enumerate(fluent) if not data.is_held_out(number)]
    shown = [*spread(trained, SHOWN_TRAINED), *spread(held_out, SHOWN_HELD_OUT)]
    noto = dict(data.noto(places.modules))
    names = [row_name(emoji, number >= SHOWN_TRAINED) for number, (emoji, _) in enumerate(shown)]
    prompts = [data.caption(emoji) for emoji, _ in shown]
    groups = [
        Group("Noto", dict(zip(names, ([on_white(noto[emoji])] for emoji, _ in shown), strict=True))),
        Group("Base", dict(zip(names, draw(generator, None, prompts, 2), strict=True))),
        Group("Adapter", dict(zip(names, draw(generator, adapter, prompts, 2), strict=True))),
        Group("Fluent", dict(zip(names, ([on_white(path)] for _, path in shown), strict=True))),
    ]
    sheet = contact_sheet("Captions: from Noto's drawings to Fluent's", in_words(run), names, groups)
    save(sheet, places.pictures / "systems-captions.png")
    return run


def row_name(emoji: Emoji, held_out: bool) -> str:
    name = data.caption(emoji).removeprefix("a photo of ")
    return f"{name}\n(not trained on)" if held_out else name


def spread(members: list[Any], count: int) -> list[Any]:
    """`count` of them, evenly from the first to the last."""
    return [members[number * (len(members) - 1) // (count - 1)] for number in range(count)]


def draw(
    generator: Generator,
    adapter: Adapter | None,
    prompts: list[str],
    each: int,
    guidance: float = GUIDANCE,
    condition: Image.Image | None = None,
) -> list[Row]:
    """`each` pictures of every prompt; the same seeds whoever draws."""
    generator.use(adapter)
    defaults = generator.base.defaults
    spec = GenerationSpec(
        prompts=[prompt for prompt in prompts for _ in range(each)],
        steps=defaults.sample_steps,
        guidance_scale=guidance,
        seed=0,
        scheduler=defaults.scheduler,
    )
    pictures = generator.images(spec, condition)
    return [pictures[start : start + each] for start in range(0, len(pictures), each)]


def save(sheet: Image.Image, path: Path) -> None:
    """As PNG of 256 colours, a third of the bytes."""
    sheet.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def dreambooth(places: Places) -> dict[str, Any]:
    """A cat that the base does not know, from five pictures of it."""
    base, _ = drawing_base(places)
    spec_dir = places.work / "dreambooth"
    summary = data.write_subject(places.modules, spec_dir / "dataset")
    settings = {"steps": 700, "batch_size": 5, "learning_rate": 4e-3, "lr_schedule": "warmup-stable-decay"}
    task = {"type": "dreambooth", "subject": "cat", "identifier": IDENTIFIER, "prior_images": 16}
    adapter = read_adapter(train(spec_dir, base, summary, settings, task, LAYERS))
    run = figures(spec_dir)
    generator = load_generator(base)
    subject = f"a photo of {IDENTIFIER} cat"
    rows = {
        "the pictures": [on_white(path) for path in data.subject_paths(places.modules)],
        "base:\na photo of a cat": draw(generator, None, ["a photo of a cat"], 5)[0],
        "adapter:\na photo of\n<subject> cat": draw(generator, adapter, [subject], 5)[0],
        "adapter:\na photo of a cat": draw(generator, adapter, ["a photo of a cat"], 5)[0],
        "adapter:\na photo of a dog": draw(generator, adapter, ["a photo of a dog"], 5)[0],
    }
    sheet = contact_sheet(
        "DreamBooth: five pictures of one cat",
        in_words(run),
        list(rows),
        [Group("The same seeds in every row of drawings", rows)],
    )
    save(sheet, places.pictures / "systems-dreambooth.png")
    return run


def controlnet(places: Places) -> dict[str, Any]:
    """Drawings after edges, shown on edges that were held out."""
    base, _ = drawing_base(places)
    spec_dir = places.work / "controlnet"
    summary = data.write_with_edges(places.modules, spec_dir / "dataset")
    settings: dict[str, Any] = {"steps": 2500, "batch_size": 16, "learning_rate": 2e-3, "horizontal_flip": True}
    settings |= {"lr_schedule": "warmup-stable-decay"}
    settings |= {"label_dropout": 0.5}  # as ControlNet's authors do, so that the edges alone say much (arXiv 2302.05543)
    adapter = read_adapter(train(spec_dir, base, summary, settings, {"type": "controlnet"}, DIFFFIT))
    run = figures(spec_dir)
    generator = load_generator(base)
    shown = spread(data.with_held_out_edges(places.modules), SHOWN_EDGES)
    names = [data.caption(emoji).removeprefix("a photo of ") for emoji, _ in shown]
    drawn = [on_white(path) for _, path in shown]
    conditions = [data.edges(picture) for picture in drawn]
    prompts = [data.caption(emoji) for emoji, _ in shown]
    steered = [draw(generator, adapter, [p], 3, STEERED_GUIDANCE, c)[0] for p, c in zip(prompts, conditions, strict=True)]
    unsteered = draw(generator, None, prompts, 3, STEERED_GUIDANCE)
    groups = [
        Group("Condition", {name: [c] for name, c in zip(names, conditions, strict=True)}),
        Group("Base, by the name alone", dict(zip(names, unsteered, strict=True))),
        Group("Adapter, by name and edges", dict(zip(names, steered, strict=True))),
        Group("Drawn from", {name: [d] for name, d in zip(names, drawn, strict=True)}),
    ]
    sheet = contact_sheet("ControlNet: drawings after edges", in_words(run), names, groups)
    save(sheet, places.pictures / "systems-controlnet.png")
    return run
