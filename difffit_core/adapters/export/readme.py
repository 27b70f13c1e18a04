"""The README of an exported folder: from which base and adapter it is, and the stock lines that load it."""

from collections.abc import Mapping

from diffusers import DDPMScheduler

from difffit_core.adapters.file import Adapter
from difffit_core.families.networks import copy_channels
from difffit_core.sampling.denoising import scheduler_settings
from difffit_core.spec.catalog import BaseModelEntry, Family
from difffit_core.tasks.config import DreamBoothConfig, InstructionConfig

LEARNED_EMBEDS = "learned_embeds.safetensors"  # a subject's word in a PEFT folder, for diffusers' textual inversion
TRAINED_ENCODER = "text_encoder"  # in a PEFT folder
SCALES, BIASES = "scales", "biases"  # two adapters in a PEFT folder with biases that the base does not have

# BASE is the folder or the Hub id of the base, FOLDER the folder with the README.
MERGED: Mapping[Family, str] = {
    "dit": """from diffusers import DiTPipeline

pipeline = DiTPipeline.from_pretrained(FOLDER){resolution}""",
    "stable-diffusion": """from diffusers import StableDiffusionPipeline

pipeline = StableDiffusionPipeline.from_pretrained(FOLDER)""",
    "controlnet": """from diffusers import ControlNetModel, StableDiffusionControlNetPipeline

controlnet = ControlNetModel.from_pretrained(FOLDER, subfolder="controlnet")
pipeline = StableDiffusionControlNetPipeline.from_pretrained(FOLDER, controlnet=controlnet)""",
    "pixart": """from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained(FOLDER)""",
    "llama": """from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained(FOLDER)""",
}
PEFT: Mapping[Family, str] = {
    "dit": """from diffusers import DiTPipeline
from peft import PeftModel

pipeline = DiTPipeline.from_pretrained(BASE){resolution}
{peft}{short_table}""",
    "stable-diffusion": """from diffusers import StableDiffusionPipeline
from peft import PeftModel

pipeline = StableDiffusionPipeline.from_pretrained(BASE){subject}
{peft}""",
    "controlnet": """from diffusers import {classes}, StableDiffusionControlNetPipeline
from peft import PeftModel

controlnet = {controlnet}
{peft}
controlnet = controlnet.get_base_model()
pipeline = StableDiffusionControlNetPipeline.from_pretrained(BASE, controlnet=controlnet)""",
    "pixart": """from diffusers import DiffusionPipeline
from peft import PeftModel

pipeline = DiffusionPipeline.from_pretrained(BASE)
{peft}""",
    "llama": """from peft import PeftModel
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained(BASE)
{peft}""",
}
NETWORK: Mapping[Family, str] = {
    "dit": "pipeline.transformer",
    "stable-diffusion": "pipeline.unet",
    "controlnet": "controlnet",
    "pixart": "pipeline.transformer",
    "llama": "model",
}
ONE_ADAPTER = "{network} = PeftModel.from_pretrained({network}, FOLDER)"
TWO_ADAPTERS = f"""{{network}} = PeftModel.from_pretrained({{network}}, FOLDER, adapter_name="{SCALES}", subfolder="{SCALES}")
{{network}}.load_adapter(FOLDER, "{BIASES}", subfolder="{BIASES}")
{{network}}.base_model.set_adapter(["{SCALES}", "{BIASES}"])"""
LORA = """from diffusers import StableDiffusionPipeline

pipeline = StableDiffusionPipeline.from_pretrained(BASE){word}
pipeline.load_lora_weights(FOLDER)"""
STOCK_CLASSES = 1000  # diffusers' DiTPipeline takes the row behind them for "no class"
SHORT_TABLE = f""".merge_and_unload()
# The stock pipeline takes row {STOCK_CLASSES} for "no class", and here that is the last one.
for block in pipeline.transformer.transformer_blocks:
    table = block.norm1.emb.class_embedder.embedding_table
    rows = [min(row, len(table.weight) - 1) for row in range({STOCK_CLASSES + 1})]
    table.weight = type(table.weight)(table.weight[rows])"""
# What each family's pipeline is asked for one picture with.
PICTURE: Mapping[Family, str] = {
    "dit": "[0]",
    "stable-diffusion": '"{prompt}"',
    "controlnet": '"{prompt}", image=CONDITION',
    "pixart": '"{prompt}", clean_caption=False, use_resolution_binning=False',
}
ASKED = """from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(FOLDER)
messages = [{"role": "user", "content": "Why is the sky blue?"}]
text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
prompt = tokenizer(text, add_special_tokens=BEGINS, return_tensors="pt")
answer = model.generate(**prompt, max_new_tokens=100)
print(tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))"""
# The stock model has the positions of the base's own size, and lays them over a larger picture as they were in training.
RESOLUTION = "\npipeline.transformer.register_to_config(sample_size={latents})  # pictures of {pixels} x {pixels} pixels"


def merged_readme(base: BaseModelEntry, adapter: Adapter) -> str:
    """Markdown for a folder with the whole model."""
    lines = MERGED[_network(base, adapter)].format(resolution=_resolution(base, adapter))
    title = f"{base.id} with a {adapter.header.method.type} adapter"
    parts = [_code(lines), _drawing(base, adapter), _classes(adapter), _word(adapter), _frame(base, adapter)]
    return _page("", title, parts, base, adapter)


def peft_readme(base: BaseModelEntry, adapter: Adapter, new_biases: bool) -> str:
    """Markdown for a PEFT folder; with `new_biases` these are an adapter beside that of all else."""
    if loads_as_lora(base, adapter):
        lines = LORA.format(word=_learned_word(adapter))
    else:
        network = _network(base, adapter)
        lines = PEFT[network].format(
            peft=(TWO_ADAPTERS if new_biases else ONE_ADAPTER).format(network=NETWORK[network]),
            resolution=_resolution(base, adapter),
            short_table=_short_table(base),
            subject=_subject(adapter),
            **_controlnet(base),
        )
    biases = (
        f"The adapter has biases where the base has none, and PEFT's form for those is an adapter of their own: `{SCALES}` and "
        f"`{BIASES}` are active together, in this order. A layer without a bias cannot take one in, so that PEFT cannot merge "
        "them; `format=merged` is the merged model."
    )
    as_lora = "PEFT takes the same folder: `pipeline.unet = PeftModel.from_pretrained(pipeline.unet, FOLDER)`."
    parts = [_code(lines), as_lora if loads_as_lora(base, adapter) else "", biases if new_biases else ""]
    parts += [_drawing(base, adapter), _classes(adapter), _word(adapter), _frame(base, adapter)]
    return _page(
        "---\nlibrary_name: peft\n---\n\n", f"A {adapter.header.method.type} adapter for {base.id}", parts, base, adapter
    )


def _page(front: str, title: str, parts: list[str], base: BaseModelEntry, adapter: Adapter) -> str:
    origin = f"The base {base.id} has weights with the SHA-256 `{adapter.header.base_sha256}`"
    licence = f" and the licence {base.license}." if base.license else "."
    return front + "\n\n".join(part for part in (f"# {title}", origin + licence, *parts) if part) + "\n"


def _code(lines: str) -> str:
    return f"```python\n{lines}\n```"


def loads_as_lora(base: BaseModelEntry, adapter: Adapter) -> bool:
    """Whether diffusers' own `load_lora_weights` takes it: Stable Diffusion's pipeline does, for a UNet and a text encoder."""
    return adapter.header.method.type == "lora" and _network(base, adapter) == "stable-diffusion"


def _drawing(base: BaseModelEntry, adapter: Adapter) -> str:
    """The lines that make the service's own picture; empty for a language model."""
    if base.family == "llama":
        return ""
    config = DDPMScheduler.load_config(base.path, subfolder="scheduler")
    defaults, task = base.defaults, adapter.header.task
    kind, settings = scheduler_settings(config, defaults.scheduler, learned_variance=False)
    told = "".join(f", {name}={value!r}" for name, value in settings.items())
    prompt = task.prompt if isinstance(task, DreamBoothConfig) else "a prompt"
    asked = PICTURE[_network(base, adapter)].format(prompt=prompt)
    size = "" if base.family == "dit" else f", width={adapter.header.resolution}, height={adapter.header.resolution}"
    asked += "" if adapter.header.resolution is None else size
    lines = f"""import torch
from diffusers import {kind.__name__}

pipeline.scheduler = {kind.__name__}.from_config(pipeline.scheduler.config{told})
generator = torch.Generator().manual_seed(SEED)
steps = {{"num_inference_steps": {defaults.sample_steps}, "guidance_scale": {defaults.guidance_scale}}}
picture = pipeline({asked}, **steps, generator=generator).images[0]"""
    meaning = "With these settings of the scheduler it draws, in fp32, the picture that the service draws by default; picture "
    return f"{meaning}number i of a request has the seed SEED + i.\n\n{_code(lines)}"


def _resolution(base: BaseModelEntry, adapter: Adapter) -> str:
    """The line that a DiT needs where the adapter was trained on another size than the base's own."""
    pixels = adapter.header.resolution
    if pixels is None or pixels == base.image_size():
        return ""
    return RESOLUTION.format(latents=pixels // base.pixels_per_latent(), pixels=pixels)


def _short_table(base: BaseModelEntry) -> str:
    """The lines that a DiT needs whose class table ends before the row that the stock pipeline takes for "no class"."""
    return SHORT_TABLE if base.family == "dit" and base.null_label() < STOCK_CLASSES else ""


def _network(base: BaseModelEntry, adapter: Adapter) -> Family:
    """The family of the network that the adapter belongs to."""
    return "controlnet" if adapter.header.task.type == "controlnet" else base.family


def _controlnet(base: BaseModelEntry) -> dict[str, str]:
    """The class that loads the base's ControlNet and how, or those that copy its UNet."""
    if base.family != "stable-diffusion":
        return {"classes": "ControlNetModel", "controlnet": 'ControlNetModel.from_pretrained(BASE, subfolder="controlnet")'}
    unet = 'UNet2DConditionModel.from_pretrained(BASE, subfolder="unet")'
    copy = f"ControlNetModel.from_unet({unet}, conditioning_embedding_out_channels={copy_channels(base)})"
    return {"classes": "ControlNetModel, UNet2DConditionModel", "controlnet": copy}


def _subject(adapter: Adapter) -> str:
    """The lines that load a subject's word, and what was trained in the text encoder."""
    if not isinstance(adapter.header.task, DreamBoothConfig):
        return ""
    lines = _learned_word(adapter)
    if adapter.header.task.train_text_encoder:
        lines += f'\npipeline.text_encoder = PeftModel.from_pretrained(pipeline.text_encoder, f"{{FOLDER}}/{TRAINED_ENCODER}")'
    return lines


def _learned_word(adapter: Adapter) -> str:
    """The line that loads a subject's word; empty for all but DreamBooth."""
    if not isinstance(adapter.header.task, DreamBoothConfig):
        return ""
    return f'\npipeline.load_textual_inversion(FOLDER, weight_name="{LEARNED_EMBEDS}")'


def _word(adapter: Adapter) -> str:
    task = adapter.header.task
    return f"Its subject is known by the prompt `{task.prompt}`." if isinstance(task, DreamBoothConfig) else ""


def _frame(base: BaseModelEntry, adapter: Adapter) -> str:
    """How a language model is asked."""
    if not isinstance(adapter.header.task, InstructionConfig):
        return ""
    frame = adapter.header.task.asked_in
    # Only a chat template of the base's own writes the tokens that a text begins with.
    begins = "False" if frame == "chat" and base.has_chat_template() else "True"
    said = f"It was trained on prompts in the frame `{frame}`, which the tokenizer in this folder gives them:"
    return f"{said}\n\n{_code(ASKED.replace('BEGINS', begins))}"


def _classes(adapter: Adapter) -> str:
    names = "\n".join(f"- {index}: {name}" for index, name in enumerate(adapter.header.class_names))
    return (
        f"Its classes by label; the null class, which guidance needs, keeps the stock pipeline's label:\n\n{names}"
        if names
        else ""
    )
