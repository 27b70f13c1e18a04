"""Each system from its dataset to stock libraries: train, generate, export, and see that all draw or write the same."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionControlNetPipeline
from PIL import Image
from transformers import AutoTokenizer

from difffit_core.adapters.export.merged import export_merged
from difffit_core.adapters.export.peft import export_peft
from difffit_core.adapters.file import Adapter, read_adapter
from difffit_core.sampling.denoising import make_scheduler
from difffit_core.sampling.registry import load_generator
from difffit_core.spec.catalog import BaseModelEntry
from difffit_core.spec.generation import GenerationSpec, TextGenerationSpec
from tests.difffit_core.spec_dirs import ADAPTER, CASES, TASKS, run_here, write_spec_dir

PICTURE_CASES = [name for name in TASKS if name != "instruction"]
STEPS, SEED = 3, 7
CONDITION = Image.fromarray(np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3))


@dataclass(frozen=True)
class System:
    """A base and an adapter that was trained on it."""

    name: str
    base: BaseModelEntry
    adapter: Adapter

    @property
    def steered(self) -> bool:
        return self.name.startswith("controlnet")

    @property
    def prompts(self) -> list[str]:
        """One that the adapter was trained on, and another."""
        return ["a photo of <subject> star" if self.name == "dreambooth" else "a star, no 1", "blue"]

    def images(self, strength: float = 1.0, guidance: float = 4.0, device: str = "cpu") -> np.ndarray:
        """What the generator draws, `[N, 16, 16, 3]` in 0 to 255."""
        asked: dict[str, object] = {"labels": [1, 0]} if self.name == "class-conditional" else {"prompts": self.prompts}
        asked |= {"steps": STEPS, "guidance_scale": guidance, "seed": SEED, "scheduler": "ddim", "adapter_strength": strength}
        generator = load_generator(self.base, device)
        generator.use(self.adapter)
        pictures = generator.images(GenerationSpec.model_validate(asked), CONDITION if self.steered else None)
        return np.stack([np.asarray(picture, dtype=np.float32) for picture in pictures])


@pytest.fixture(scope="module")
def systems(tmp_path_factory: pytest.TempPathFactory, published_bases: dict[str, BaseModelEntry]) -> dict[str, System]:
    """All of them, each trained for a few steps."""
    return {name: train(tmp_path_factory.mktemp(name), name, published_bases[name]) for name in TASKS}


def train(folder: Path, name: str, base: BaseModelEntry) -> System:
    spec = write_spec_dir(
        folder, base, "difffit", CASES[name][1], steps=5, learning_rate=5e-2, validation_fraction=0.0, sample_every=5
    )
    assert run_here(folder, spec)[-1]["type"] == "succeeded"
    return System(name, base, read_adapter(folder / ADAPTER))


@pytest.fixture(params=PICTURE_CASES)
def system(request: pytest.FixtureRequest, systems: dict[str, System]) -> System:
    return systems[request.param]


@pytest.mark.parametrize("name", ["class-conditional", "text-to-image", "controlnet"])
def test_a_folder_as_it_was_published_draws_what_one_saved_now_does(
    name: str, tiny_bases: dict[str, BaseModelEntry], systems: dict[str, System]
) -> None:
    published = systems[name]
    assert np.array_equal(published.images(), System(name, tiny_bases[name], published.adapter).images())


@pytest.mark.gpu
@pytest.mark.usefixtures("in_fp32", "exact_gpu")
def test_a_gpu_draws_what_the_cpu_does(system: System) -> None:
    """In fp32; noise is drawn on the CPU for both."""
    assert np.abs(system.images(device="cuda") - system.images()).max() <= 2  # of 255


@pytest.mark.gpu
@pytest.mark.usefixtures("in_fp32")
def test_a_gpu_answers_what_the_cpu_does(systems: dict[str, System]) -> None:
    asked = TextGenerationSpec(prompts=["1 + 1 = "], max_tokens=12, temperature=0.0, top_p=1.0, seed=0)
    answers = []
    for device in ("cpu", "cuda"):
        generator = load_generator(systems["instruction"].base, device)
        generator.use(systems["instruction"].adapter)
        answers.append(generator.texts(asked))
    assert answers[0] == answers[1]


def readme_scope(export: Path, base: Path) -> dict[str, Any]:
    """What the lines of an export's README make."""
    code = (export / "README.md").read_text().split("```python\n")[1].split("```")[0]
    scope: dict[str, Any] = {"BASE": str(base), "FOLDER": str(export)}
    exec(code, scope)
    return scope


def stock_images(system: System, pipeline: Any, guidance: float = 4.0) -> np.ndarray:
    """What a stock pipeline draws from the noise that the generator starts from, `[N, 16, 16, 3]` in 0 to 255."""
    pipeline.scheduler = make_scheduler(system.base.path, "ddim", learned_variance=False)
    pipeline.set_progress_bar_config(disable=True)
    common = {"num_inference_steps": STEPS, "guidance_scale": guidance, "output_type": "np"}
    generators = [torch.Generator().manual_seed(SEED + i) for i in range(2)]
    if system.name == "class-conditional":
        return 255 * np.asarray(pipeline([1, 0], generator=generators, **common).images)
    latents = torch.stack([torch.randn(4, 8, 8, generator=generator) for generator in generators])
    if system.steered:
        common["image"] = [CONDITION] * 2
    if system.name == "text-to-image-pixart":
        common["use_resolution_binning"] = False  # it knows the sizes of the published models only
    return 255 * np.asarray(pipeline(system.prompts, latents=latents, **common).images)


def test_the_merged_model_draws_the_same_in_its_stock_pipeline(tmp_path: Path, system: System) -> None:
    export_merged(system.base, system.adapter, tmp_path / "merged")
    pictures = system.images()
    stock = stock_images(system, readme_scope(tmp_path / "merged", system.base.path)["pipeline"])
    assert np.abs(pictures - stock).max() < 0.6  # of 255: ours are rounded


def test_the_peft_folder_draws_the_same_in_the_stock_pipeline(tmp_path: Path, system: System) -> None:
    export_peft(system.base, system.adapter, tmp_path / "peft")
    scope = readme_scope(tmp_path / "peft", system.base.path)
    pipeline = scope.get("pipeline")
    if system.steered:
        pipeline = StableDiffusionControlNetPipeline.from_pretrained(system.base.path, controlnet=scope["controlnet"])
    # The stock pipeline takes row 1000 of a class table for the null class, which the base's own small one does not have.
    guidance = 1.0 if system.name == "class-conditional" else 4.0
    assert np.abs(system.images(guidance=guidance) - stock_images(system, pipeline, guidance)).max() < 0.6


def test_the_strength_moves_the_picture_away_from_the_bases(system: System) -> None:
    base, half, whole = system.images(0.0), system.images(0.5), system.images()
    assert 0.1 < np.abs(half - base).mean() < np.abs(whole - base).mean()


@pytest.mark.parametrize("form", ["merged", "peft"])
def test_a_language_model_answers_the_same_in_stock_transformers(tmp_path: Path, systems: dict[str, System], form: str) -> None:
    system = systems["instruction"]
    {"merged": export_merged, "peft": export_peft}[form](system.base, system.adapter, tmp_path / form)
    model, tokenizer = readme_scope(tmp_path / form, system.base.path)["model"], AutoTokenizer.from_pretrained(system.base.path)
    prompts = ["1 + 1 = ", "4 + 3 = "]
    spec = TextGenerationSpec(prompts=prompts, max_tokens=12, temperature=0.0, top_p=1.0, seed=0)
    generator = load_generator(system.base, "cpu")
    before = [text.text for text in generator.texts(spec)]
    generator.use(system.adapter)
    answers = [text.text for text in generator.texts(spec)]
    assert answers != before
    for prompt, answer in zip(prompts, answers, strict=True):
        tokens = tokenizer(prompt, return_tensors="pt")
        output = model.generate(**tokens, do_sample=False, max_new_tokens=12, pad_token_id=tokenizer.eos_token_id)
        assert tokenizer.decode(output[0, tokens.input_ids.shape[1] :], skip_special_tokens=True) == answer


def test_one_generator_takes_adapters_of_all_tasks_and_gives_the_base_back(systems: dict[str, System]) -> None:
    """On one Stable Diffusion: for its UNet, for a subject, and for a ControlNet beside it."""
    spec = GenerationSpec(prompts=["a star"], steps=2, guidance_scale=2.0, seed=0, scheduler="ddim")
    chosen = [systems[name] for name in ("text-to-image", "dreambooth", "controlnet-copy")]
    generator = load_generator(chosen[0].base, "cpu")
    base = generator.images(spec)[0].tobytes()
    for system in chosen:
        generator.use(system.adapter)
        adapted = generator.images(spec, CONDITION if system.steered else None)[0].tobytes()
        fresh = load_generator(system.base, "cpu")
        fresh.use(system.adapter)
        assert adapted == fresh.images(spec, CONDITION if system.steered else None)[0].tobytes()
        assert adapted != base
    generator.use(None)
    assert generator.images(spec)[0].tobytes() == base
