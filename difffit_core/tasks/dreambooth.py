"""A few pictures of one subject on Stable Diffusion, told by a word of its own (Ruiz et al. 2023, arXiv 2208.12242)."""

from functools import cached_property
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from difffit_core.adapters.subject import PREFIX, SUBJECT, add_trained_subject
from difffit_core.data.buckets import Size
from difffit_core.data.dataset import Item
from difffit_core.data.latents import encode_pictures
from difffit_core.families.networks import told
from difffit_core.families.text_encoders import load_text_encoder
from difffit_core.methods.injection import prepare, trained_parameters
from difffit_core.sampling.generator import Generator
from difffit_core.sampling.prompted import PromptedGenerator
from difffit_core.sampling.registry import load_generator
from difffit_core.spec.catalog import BaseModelEntry
from difffit_core.spec.generation import GenerationSpec
from difffit_core.spec.job import TrainingSpec
from difffit_core.tasks.config import DreamBoothConfig
from difffit_core.tasks.diffusion import DiffusionTask
from difffit_core.tasks.task import Examples, Progress, Tensors
from difffit_core.tasks.text_to_image import TextToImage

FEWEST, MOST = 3, 20  # pictures that DreamBooth is known to work with
PRIOR = "prior_"  # before the names of tensors that belong to pictures of the whole kind
OF_SUBJECT, OF_KIND = 1, 2  # captions, after the empty one


class DreamBooth(TextToImage):
    """The word's embedding is trained with the UNet, so the text encoder runs in every step, on three prompts.

    Against forgetting the rest of the kind, each picture can be paired with one that the base made itself.
    """

    def __init__(self, spec: TrainingSpec, base: BaseModelEntry, device: torch.device) -> None:
        super().__init__(spec, base, device)
        assert isinstance(spec.task, DreamBoothConfig)
        self.task = spec.task
        self.text = load_text_encoder(base.path, torch.device("cpu"))

    def prepare(self) -> None:
        super().prepare()
        encoder, self.of_encoder = self.text.encoder, {}
        if self.task.train_text_encoder:
            prepare(encoder, self.spec.method)  # on the CPU: what a method adds starts from the same numbers everywhere
            self.of_encoder = {f"{PREFIX}{name}": parameter for name, parameter in trained_parameters(encoder).items()}
        self.subject = add_trained_subject(self.text.tokenizer, encoder, self.task)
        self.text.to(self.device)

    def parameters(self) -> dict[str, nn.Parameter]:
        return super().parameters() | self.of_encoder | {SUBJECT: self.subject}

    def modules(self) -> list[nn.Module]:
        return [*super().modules(), self.text.encoder]

    def warnings(self, items: list[Item]) -> list[str]:
        found = DiffusionTask.warnings(self, items)  # the captions are one short prompt, with a word that no base knows
        if not FEWEST <= len(items) <= MOST:
            found.append(f"The dataset has {len(items)} pictures; DreamBooth wants {FEWEST} to {MOST} of one subject.")
        classes = sorted({item.label for item in items})
        if len(classes) > 1:
            names = ", ".join(classes[:5])
            found.append(f"The pictures are of {len(classes)} classes ({names}), and all will be taken for one subject.")
        return found

    def caption_of(self, item: Item) -> str:
        return self.task.prompt

    def encode_conditions(self, items: list[Item], folder: Path, size: Size) -> Tensors:
        return {"caption": torch.full((len(items),), OF_SUBJECT)}

    def blank_conditions(self, count: int) -> Tensors:
        return {"caption": torch.full((count,), OF_SUBJECT)}

    def blank(self, count: int) -> Examples:
        tensors = super().blank(count).tensors
        if self.task.prior_images:
            of_prior = super().blank(self.task.prior_images).tensors
            tensors |= {f"{PRIOR}{name}": of_prior[name] for name in ("mean", "std")}
        return Examples([], tensors)

    def encode(self, items: list[Item], folder: Path, size: Size | None, progress: Progress) -> Tensors:
        """As for any pictures, and the same of those of the whole kind; these are made where they are not there yet."""
        encoded = super().encode(items, folder, size, progress)
        if self.task.prior_images == 0:
            return encoded
        assert size is not None
        files = self._prior_pictures(folder.parent / "prior", progress)
        of_prior = encode_pictures(files, self.vae, size, progress)
        return encoded | {f"{PRIOR}{name}": tensor for name, tensor in of_prior.items()}

    def _prior_pictures(self, folder: Path, progress: Progress) -> list[Path]:
        """Pictures of the whole kind from fixed seeds, by a base of their own: the one in training changes."""
        folder.mkdir(exist_ok=True)
        files = [folder / f"{number:04d}.png" for number in range(self.task.prior_images)]
        for start in range(0, len(files), PromptedGenerator.most_at_once):
            portion = files[start : start + PromptedGenerator.most_at_once]
            if not all(file.exists() for file in portion):
                for file, picture in zip(portion, self._base_makes(len(portion), start), strict=True):
                    part = file.with_suffix(".part")
                    picture.save(part, "PNG")
                    part.replace(file)
                progress(start + len(portion), len(files))
        self.__dict__.pop("_generator", None)
        return files

    def _base_makes(self, count: int, start: int) -> list[Image.Image]:
        spec = GenerationSpec(
            prompts=[self.task.prior_prompt] * count,
            steps=self.h.sample_steps,
            guidance_scale=self.h.guidance_scale,
            seed=self.spec.seed + start,
            scheduler=self.spec.defaults.scheduler,
        )
        return self._generator.images(spec)

    @cached_property
    def _generator(self) -> Generator:
        return load_generator(self.base, str(self.device))

    def prompts(self, examples: Examples, rows: Tensor) -> Tensors:
        """The prompts at `rows` `[B]`: the empty one, the subject's, the kind's."""
        return told(self.text.embed_batch(["", self.task.prompt, self.task.prior_prompt]), rows)

    def draw(self, examples: Examples, batch: int, generator: torch.Generator) -> Tensors:
        drawn = super().draw(examples, batch, generator)
        prior = self._prior(examples)
        if prior is not None:
            of_prior = super().draw(prior, batch, generator)
            count = len(prior.tensors["mean"])
            of_prior["index"] = torch.randint(0, count, (batch,), generator=generator)
            drawn |= {f"{PRIOR}{name}": tensor for name, tensor in of_prior.items()}
        return drawn

    def loss(self, examples: Examples, indices: Tensor, drawn: Tensors) -> Tensor:
        """Of the subject's pictures, and where there are numbers for it, the weighted one of as many of the whole kind."""
        loss = super().loss(examples, indices, drawn)
        prior = self._prior(examples)
        if prior is None or f"{PRIOR}index" not in drawn:
            return loss
        of_prior = {name.removeprefix(PRIOR): tensor for name, tensor in drawn.items() if name.startswith(PRIOR)}
        return loss + self.task.prior_weight * super().loss(prior, of_prior["index"], of_prior)

    def _prior(self, examples: Examples) -> Examples | None:
        """The pictures of the whole kind, where there are any."""
        tensors = {name.removeprefix(PRIOR): t for name, t in examples.tensors.items() if name.startswith(PRIOR)}
        if not tensors:
            return None
        caption = torch.full((len(tensors["mean"]),), OF_KIND, device=tensors["mean"].device)
        return Examples([], tensors | {"caption": caption})
