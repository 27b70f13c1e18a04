"""Run exported folders with diffusers, transformers and peft alone: `python stock.py MANIFEST`, a JSON list of what to compare.

Prints {name: largest difference to the trained model's output}.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel, DiTTransformer2DModel, PixArtTransformer2DModel, UNet2DConditionModel
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

CLASSES: dict[str, Any] = {
    "dit": DiTTransformer2DModel,
    "unet": UNet2DConditionModel,
    "controlnet": ControlNetModel,
    "pixart": PixArtTransformer2DModel,
    "llama": AutoModelForCausalLM,
}


def difference(case: dict[str, Any]) -> float:
    """Of one case: {family, network, peft or null, tensors}; `tensors` is a file of inputs and `expected`."""
    model: Any = CLASSES[case["family"]].from_pretrained(case["network"])
    if case["peft"] is not None:
        folders = [path.parent for path in Path(case["peft"]).rglob("adapter_config.json")]
        first, *others = sorted(folders, reverse=True)  # scales before biases
        model = PeftModel.from_pretrained(model, str(first), adapter_name=first.name)
        for folder in others:
            model.load_adapter(str(folder), folder.name)
        model.base_model.set_adapter([first.name, *(folder.name for folder in others)])
    tensors = load_file(case["tensors"])
    expected = tensors.pop("expected")
    with torch.no_grad():
        output = model.eval()(**tensors, return_dict=False)
    if case["family"] == "controlnet":
        output = [torch.cat([residual.flatten(1) for residual in (*output[0], output[1])], dim=1)]
    return float((output[0] - expected).abs().max())


cases = json.loads(Path(sys.argv[1]).read_text())
differences = {case["name"]: difference(case) for case in cases}
assert not any(name.startswith("difffit") for name in sys.modules)
print(json.dumps(differences))  # noqa: T201
