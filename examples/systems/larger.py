"""256 to 512 in small: emoji-dit, trained at 64 pixels, learns to draw at 128 with the paper's table of positions."""

from typing import Any

from PIL import Image

from difffit_core.adapters.file import Adapter, read_adapter
from difffit_core.families.dit.positions import positions, resize
from difffit_core.sampling.class_conditional import ClassConditionalGenerator
from difffit_core.spec.catalog import load_catalog
from difffit_core.spec.generation import GenerationSpec
from examples.contact_sheet import Group, contact_sheet
from examples.emoji_dit.sources import EXAMPLE_CLASSES
from examples.systems import data
from examples.systems.drawings import DIFFFIT, Row, save
from examples.systems.training import Places, figures, in_words, train

PIXELS = 128  # twice the base's


def larger(places: Places) -> dict[str, Any]:
    """Noto's drawings of seven classes at twice the resolution."""
    base = load_catalog()["emoji-dit"]
    spec_dir = places.work / "larger"
    summary = data.write_large_classes(places.modules, spec_dir / "dataset", PIXELS)
    settings: dict[str, Any] = {"steps": 250, "batch_size": 8, "resolution": PIXELS, "validate_every": 1000}
    settings |= {"learning_rate": 2e-4, "checkpoint_every": 50}  # at 1e-3 the loss falls further, and shapes are lost
    settings |= {"sample_steps": 2}  # of grids that nobody looks at
    adapter = read_adapter(train(spec_dir, base, summary, settings, {"type": "class-conditional"}, DIFFFIT))
    run = figures(spec_dir)
    generator = ClassConditionalGenerator(base)
    classes = list(EXAMPLE_CLASSES)[::2]
    groups = [
        Group("Base at 64", draw(generator, None, classes)),
        Group("At 128, positions 0 to 15", draw_at(generator, classes, trick=False)),
        Group("At 128, positions 0 to 7.5", draw_at(generator, classes, trick=True)),
        Group("At 128, trained", draw(generator, adapter, classes)),
    ]
    sheet = contact_sheet("Twice the resolution", in_words(run), classes, groups)
    save(sheet, places.pictures / "systems-resolution.png")
    return run


def draw(generator: ClassConditionalGenerator, adapter: Adapter | None, classes: list[str], each: int = 2) -> dict[str, Row]:
    """`each` pictures of every class; the same seeds whoever draws."""
    generator.use(adapter)
    return drawn(generator, classes, each)


def draw_at(generator: ClassConditionalGenerator, classes: list[str], trick: bool, each: int = 2) -> dict[str, Row]:
    """The untrained base at the larger size: with its positions laid over the larger grid, or going on beyond them."""
    generator.use(None)
    model = generator.network
    grid, latents = model.config.sample_size, PIXELS // generator.base.pixels_per_latent()
    resize(model, latents)
    if not trick:
        table = model.pos_embed.pos_embed
        model.pos_embed.pos_embed = positions(table.shape[-1], latents, known=latents).to(table)
    pictures = drawn(generator, classes, each)
    resize(model, grid)
    return pictures


def drawn(generator: ClassConditionalGenerator, classes: list[str], each: int) -> dict[str, Row]:
    """By whatever is in use."""
    defaults = generator.base.defaults
    spec = GenerationSpec(
        labels=[generator.class_names.index(name) for name in classes for _ in range(each)],
        steps=defaults.sample_steps,
        guidance_scale=defaults.guidance_scale,
        seed=0,
        scheduler=defaults.scheduler,
    )
    pictures: list[Image.Image] = generator.images(spec)
    return {name: pictures[number * each : (number + 1) * each] for number, name in enumerate(classes)}
