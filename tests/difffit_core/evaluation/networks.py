"""Networks with weights that are the same everywhere, and a tiny CLIP, for the tests of what measures pictures."""

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from tests.tiny_models import PROMPT_TOKENS, tiny_clip_tokenizer


def fill(network: nn.Module) -> None:
    """Give every tensor of the network values that depend on no random generator, and keep activations of one size."""
    for number, (name, tensor) in enumerate(network.state_dict().items()):
        values = scattered(tensor.numel(), number).view(tensor.shape)
        if name.endswith("running_var"):
            values = 1 + 0.3 * values
        elif tensor.dim() == 4:
            values = values * (6 / tensor[0].numel()) ** 0.5
        elif tensor.dim() == 1 and name.endswith("weight"):
            values = 1 + 0.1 * values
        else:
            values = 0.1 * values
        tensor.copy_(values)


def scattered(count: int, seed: int) -> Tensor:
    """Numbers `[count]` between -1 and 1 without an order, in float64."""
    return (torch.sin(torch.arange(count, dtype=torch.float64) * 12.9898 + seed) * 43758.5453) % 1 * 2 - 1


def pictures(count: int, size: int) -> Tensor:
    """uint8 `[count, 3, size, size]`, the same everywhere."""
    return (scattered(count * 3 * size * size, 0) * 127.5 + 127.5).view(count, 3, size, size).to(torch.uint8)


def features(count: int, width: int, shift: float) -> Tensor:
    """Rows `[count, width]` about `shift`, the same everywhere."""
    return scattered(count * width, round(100 * shift)).view(count, width) + shift


def write_weights(network: nn.Module, path: Path) -> Path:
    """The network's weights, filled as above, in the format of the published files."""
    fill(network)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), path)
    return path


def write_tiny_clip(folder: Path) -> Path:
    """A folder that `CLIPModel.from_pretrained` and its processors load: 32 x 32 pictures, short texts, width 16."""
    torch.manual_seed(0)
    tokenizer = tiny_clip_tokenizer()
    shared = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    tokens = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = {**shared, **tokens, "vocab_size": len(tokenizer), "max_position_embeddings": PROMPT_TOKENS}
    vision = {**shared, "image_size": 32, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"height": 32, "width": 32}
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=size).save_pretrained(folder)
    return folder
