"""Which family of architectures a model belongs to, told by its class; every other model is "generic". Torch-free."""

from typing import Literal

Family = Literal["dit", "unet", "controlnet", "pixart", "llama", "generic"]

# The modules of a ControlNet that start at zero, which whatever trains one has to train: nothing reaches its UNet before.
ZERO_CONVOLUTIONS = ("controlnet_down_blocks", "controlnet_mid_block")

# What is new besides in a ControlNet that starts as a copy of a UNet, which carries these names under COPIED_CONTROLNET.
COPIED_CONTROLNET = "modules_new_in_copy"
NEW_IN_A_COPY = ("controlnet_cond_embedding",)

# Names, so that neither diffusers nor transformers is imported to answer the question.
FAMILY_OF_CLASS: dict[str, Family] = {
    "DiTTransformer2DModel": "dit",
    "UNet2DConditionModel": "unet",
    "ControlNetModel": "controlnet",
    "PixArtTransformer2DModel": "pixart",
    "LlamaModel": "llama",
    "LlamaForCausalLM": "llama",
}


def family_of(model: object) -> Family:
    """The family of a diffusers or transformers model; a subclass belongs to its parent's."""
    for kind in type(model).__mro__:
        if kind.__name__ in FAMILY_OF_CLASS:
            return FAMILY_OF_CLASS[kind.__name__]
    return "generic"
