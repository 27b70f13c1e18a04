"""Which generator is for which base. Each is imported when it is asked for: pictures of classes need no text models."""

from difffit_core.sampling.generator import Generator
from difffit_core.spec.catalog import BaseModelEntry


def load_generator(base: BaseModelEntry, device: str = "auto") -> Generator:
    """The base, loaded from disk; `.images` makes pictures, a Language's `.texts` texts.

    Raises ModelError where a file is missing or damaged, SpecError for a device that is not there.
    """
    match base.family:
        case "dit":
            from difffit_core.sampling.class_conditional import ClassConditionalGenerator

            return ClassConditionalGenerator(base, device)
        case "stable-diffusion" | "controlnet":
            from difffit_core.sampling.stable_diffusion import StableDiffusionGenerator

            return StableDiffusionGenerator(base, device)
        case "pixart":
            from difffit_core.sampling.prompted import PromptedGenerator

            return PromptedGenerator(base, device)
        case "llama":
            from difffit_core.sampling.language import LanguageGenerator

            return LanguageGenerator(base, device)
