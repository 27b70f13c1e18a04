"""Random adapters on tiny models of every family, what such a model answers to a fixed batch, and when two are the same."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from difffit_core.adapters.file import Adapter, AdapterHeader, read_adapter
from difffit_core.families.dit.network import class_embedder, replace_class_table, tie_conditioning
from difffit_core.families.registry import family_of
from difffit_core.methods.config import MethodConfig
from difffit_core.methods.injection import prepare, trained_parameters
from difffit_core.tasks.config import (
    ClassConditionalConfig,
    ControlNetConfig,
    InstructionConfig,
    TaskConfig,
    TextToImageConfig,
)
from tests.tiny_models import (
    BASE_CLASSES,
    tiny_controlnet,
    tiny_dit,
    tiny_llama,
    tiny_pixart,
    tiny_text_encoder,
    tiny_unet,
)

BATCH = 5
TASK_OF_FAMILY: dict[str, TaskConfig] = {
    "dit": ClassConditionalConfig(),
    "unet": TextToImageConfig(type="text-to-image"),
    "controlnet": ControlNetConfig(type="controlnet"),
    "pixart": TextToImageConfig(type="text-to-image"),
    "llama": InstructionConfig(type="instruction"),
    "generic": TextToImageConfig(type="text-to-image"),
}
BASE_SHA256 = "b" * 64
# Of two equal trainings of a few steps on a GPU, whose kernels add up in any order: all but so few numbers are as near.
GPU_TOLERANCE, GPU_OUTLIERS = 1e-4, 0.01


@dataclass
class Case:
    """A tiny base in memory, its classes, and its output for a fixed batch: `answer(model, samples)` of those samples."""

    model: nn.Module
    names: list[str]
    inputs: dict[str, Tensor]
    flatten: Callable[[object], Tensor]

    def to(self, device: torch.device) -> "Case":
        """The same there."""
        self.model.to(device)
        self.inputs = {name: tensor.to(device) for name, tensor in self.inputs.items()}
        return self

    def answer(self, model: nn.Module, samples: Sequence[int] = range(BATCH), **other: Tensor) -> Tensor:
        """`[samples, …]`, of the fixed inputs but for those given in `other`."""
        chosen = {name: tensor[list(samples)] for name, tensor in self.inputs.items()} | other
        return self.flatten(model(**chosen, return_dict=False))

    def adapter(self, seed: int = 0, class_names: Sequence[str] | None = None, **method: object) -> Adapter:
        """What a training of `method` might have made, on the CPU: the trained parameters, each moved at random."""
        config: MethodConfig = TypeAdapter[MethodConfig](MethodConfig).validate_python({"type": "difffit"} | method)
        names = self.names if class_names is None else list(class_names)
        family = family_of(self.model)
        header = AdapterHeader("tiny", BASE_SHA256, "d" * 64, family, config, names, TASK_OF_FAMILY[family])
        model = copy.deepcopy(self.model)
        if self.names:
            replace_class_table(model, self.names, names)
        prepare(model, config)
        generator = torch.Generator().manual_seed(seed)
        moved = {n: p.cpu() + 0.2 * torch.randn(p.shape, generator=generator) for n, p in trained_parameters(model).items()}
        return Adapter(header, {name: tensor.detach() for name, tensor in moved.items()})


def make_case(family: str) -> Case:
    """A fresh tiny base of the family; `llama-tied` shares one table between embedding and output.

    `dit-spare` repeats its null class up to row 1000 of its class table, as `emoji-dit` does.
    """
    random = torch.Generator().manual_seed(1)
    latents, text = torch.randn(BATCH, 4, 8, 8, generator=random), torch.randn(BATCH, 7, 16, generator=random)
    timesteps = torch.tensor([1, 250, 500, 750, 999])
    tokens = torch.randint(3, 100, (BATCH, 9), generator=random)
    match family:
        case "dit" | "dit-affine" | "dit-spare":
            model = tiny_dit(classes=1000 if family == "dit-spare" else len(BASE_CLASSES), affine_norms=family == "dit-affine")
            tie_conditioning(model)
            rows = class_embedder(model).embedding_table.weight.data
            rows[len(BASE_CLASSES) :] = rows[-1].clone()
            labels = torch.tensor([0, 1, 2, 3, 0])
            inputs = {"hidden_states": latents, "timestep": timesteps, "class_labels": labels}
            return Case(model.eval(), list(BASE_CLASSES), inputs, _first)
        case "unet":
            inputs = {"sample": latents, "timestep": timesteps, "encoder_hidden_states": text}
            return Case(tiny_unet().eval(), [], inputs, _first)
        case "pixart":
            inputs = {"hidden_states": latents, "timestep": timesteps, "encoder_hidden_states": text[:, :, :12].contiguous()}
            inputs["encoder_attention_mask"] = (torch.arange(7) < torch.arange(2, 2 + BATCH)[:, None]).long()
            return Case(tiny_pixart().eval(), [], inputs, _first)
        case "controlnet":
            inputs = {"sample": latents, "timestep": timesteps, "encoder_hidden_states": text}
            inputs["controlnet_cond"] = torch.randn(BATCH, 3, 16, 16, generator=random)
            model = tiny_controlnet()
            for convolution in (*model.controlnet_down_blocks, model.controlnet_mid_block):
                torch.nn.init.normal_(convolution.weight, std=0.1, generator=random)  # as after some training
            return Case(model.eval(), [], inputs, _residuals)
        case "llama" | "llama-tied":
            model = tiny_llama(tied=family == "llama-tied")
            return Case(model.eval(), [], {"input_ids": tokens}, _first)
        case _:
            return Case(tiny_text_encoder().eval(), [], {"input_ids": tokens % 60}, _first)


def _first(output: object) -> Tensor:
    assert isinstance(output, tuple)
    first: Tensor = output[0]
    return first


def _residuals(output: object) -> Tensor:
    """All that a ControlNet adds to its UNet, `[B, everything]`."""
    assert isinstance(output, tuple)
    down, middle = output
    return torch.cat([residual.flatten(1) for residual in (*down, middle)], dim=1)


def assert_same_training(one: Path, other: Path, device: torch.device) -> None:
    """Two adapter files are of equal trainings: on the CPU the same to the bit, on a GPU within its tolerance.

    Key biases are left out there: softmax takes them away, so that their gradients are rounding, of which Adam makes steps.
    """
    if device.type == "cpu":
        assert one.read_bytes() == other.read_bytes()
        return
    expected, found = (read_adapter(path).tensors for path in (one, other))
    assert found.keys() == expected.keys()
    kept = [name for name in expected if not name.endswith(("to_k.bias", "k_proj.bias"))]
    difference = torch.cat([(found[name] - expected[name]).flatten() for name in kept]).abs()
    assert (difference > GPU_TOLERANCE).float().mean() <= GPU_OUTLIERS, f"by {difference.max():.1e}"
