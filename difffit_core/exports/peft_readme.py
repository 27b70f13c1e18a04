"""The README of an exported PEFT folder: for which base it is, and the lines that load it."""

from collections.abc import Mapping

from difffit_core.adapter_file import Adapter
from difffit_core.families import Family

# The stock lines that load the base; BASE is its folder or its Hub id.
LOADING: Mapping[Family, str] = {
    "dit": """from diffusers import DiTPipeline
pipeline = DiTPipeline.from_pretrained(BASE)
pipeline.transformer = PeftModel.from_pretrained(pipeline.transformer, FOLDER)""",
    "unet": """from diffusers import StableDiffusionPipeline
pipeline = StableDiffusionPipeline.from_pretrained(BASE)
pipeline.unet = PeftModel.from_pretrained(pipeline.unet, FOLDER)""",
    "controlnet": """from diffusers import ControlNetModel
controlnet = PeftModel.from_pretrained(ControlNetModel.from_pretrained(BASE, subfolder="controlnet"), FOLDER)""",
    "llama": """from transformers import AutoModelForCausalLM
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(BASE{biases}), FOLDER)""",
}


def readme(adapter: Adapter, new_settings: Mapping[str, bool]) -> str:
    """Markdown; `new_settings` are what the config of the base must say besides, such as that a Llama has biases."""
    header = adapter.header
    settings = "".join(f", {name}={value}" for name, value in new_settings.items())
    lines = LOADING[header.family].format(biases=settings)
    parts = [
        f"---\nlibrary_name: peft\ntags: [difffit, {header.method.type}]\n---",
        f"# A {header.method.type} adapter for {header.base_model}",
        f"It fits the base whose weights have the SHA-256 `{header.base_sha256}`. PEFT loads it without further code:",
        f"```python\nfrom peft import PeftModel\n{lines}\n```",
    ]
    if settings:
        parts.append(
            "The base has no biases where the adapter has trained some: with the setting above it is loaded with biases of zero, "
            "which the adapter replaces. Without it PEFT would leave them out and say nothing."
        )
    if header.family == "dit":
        names = "\n".join(f"{index}. {name}" for index, name in enumerate(header.class_names))
        parts.append(f"Its classes, by label:\n\n{names}\n\nThe null class, which guidance needs, keeps the base's label.")
    return "\n\n".join(parts) + "\n"
