"""The README of an exported folder: from which base and adapter it is, and the stock lines that load it."""

from collections.abc import Mapping

from difffit_core.adapter_file import Adapter
from difffit_core.base_models import BaseModelEntry, Family

# BASE is the folder or the Hub id of the base, FOLDER the folder with the README.
MERGED: Mapping[Family, str] = {
    "dit": """from diffusers import DiTPipeline

pipeline = DiTPipeline.from_pretrained(FOLDER){resolution}""",
    "stable-diffusion": """from diffusers import StableDiffusionPipeline

pipeline = StableDiffusionPipeline.from_pretrained(FOLDER)""",
    "controlnet": """from diffusers import ControlNetModel

controlnet = ControlNetModel.from_pretrained(FOLDER, subfolder="controlnet")""",
    "llama": """from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained(FOLDER)""",
}
PEFT: Mapping[Family, str] = {
    "dit": """from diffusers import DiTPipeline
from peft import PeftModel

pipeline = DiTPipeline.from_pretrained(BASE){resolution}
pipeline.transformer = PeftModel.from_pretrained(pipeline.transformer, FOLDER)""",
    "stable-diffusion": """from diffusers import StableDiffusionPipeline
from peft import PeftModel

pipeline = StableDiffusionPipeline.from_pretrained(BASE)
pipeline.unet = PeftModel.from_pretrained(pipeline.unet, FOLDER)""",
    "controlnet": """from diffusers import ControlNetModel
from peft import PeftModel

controlnet = ControlNetModel.from_pretrained(BASE, subfolder="controlnet")
controlnet = PeftModel.from_pretrained(controlnet, FOLDER)""",
    "llama": """from peft import PeftModel
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained(BASE{settings})
model = PeftModel.from_pretrained(model, FOLDER)""",
}
# The stock model has the positions of the base's own size, and lays them over a larger picture as they were in training.
RESOLUTION = "\npipeline.transformer.register_to_config(sample_size={latents})  # pictures of {pixels} x {pixels} pixels"


def merged_readme(base: BaseModelEntry, adapter: Adapter) -> str:
    """Markdown for a folder with the whole model."""
    lines = MERGED[base.family].format(resolution=_resolution(base, adapter))
    title = f"{base.id} with a {adapter.header.method.type} adapter"
    return _page("", title, [_code(lines), _classes(adapter)], base, adapter)


def peft_readme(base: BaseModelEntry, adapter: Adapter, new_settings: Mapping[str, bool]) -> str:
    """Markdown for a PEFT folder; `new_settings` are what the base's config must say besides, as that a Llama has biases."""
    settings = "".join(f", {name}={value}" for name, value in new_settings.items())
    lines = PEFT[base.family].format(resolution=_resolution(base, adapter), settings=settings)
    biases = (
        "The adapter has biases where the base has none. With the setting above the base is loaded with biases of zero, which "
        "the adapter replaces; without it PEFT would leave them out and say nothing."
    )
    parts = [_code(lines), biases if settings else "", _classes(adapter)]
    return _page(
        "---\nlibrary_name: peft\n---\n\n", f"A {adapter.header.method.type} adapter for {base.id}", parts, base, adapter
    )


def _page(front: str, title: str, parts: list[str], base: BaseModelEntry, adapter: Adapter) -> str:
    origin = f"The base {base.id} has weights with the SHA-256 `{adapter.header.base_sha256}`"
    licence = f" and the licence {base.license}." if base.license else "."
    return front + "\n\n".join(part for part in (f"# {title}", origin + licence, *parts) if part) + "\n"


def _code(lines: str) -> str:
    return f"```python\n{lines}\n```"


def _resolution(base: BaseModelEntry, adapter: Adapter) -> str:
    """The line that a DiT needs where the adapter was trained on another size than the base's own."""
    pixels = adapter.header.resolution
    if pixels is None or pixels == base.image_size():
        return ""
    return RESOLUTION.format(latents=pixels // base.pixels_per_latent(), pixels=pixels)


def _classes(adapter: Adapter) -> str:
    names = "\n".join(f"- {index}: {name}" for index, name in enumerate(adapter.header.class_names))
    return (
        f"Its classes by label; the null class, which guidance needs, keeps the stock pipeline's label:\n\n{names}"
        if names
        else ""
    )
