"""Train one adapter on a frozen base: encode, validate, step, sample, checkpoint, and write the adapter."""

import hashlib
import math
import time
from pathlib import Path

import torch
from torch import Tensor

from difffit_core.adapter_file import save_adapter
from difffit_core.base_models import BaseModelEntry
from difffit_core.dataset import Item, read_index, split
from difffit_core.devices import inference_autocast, training_autocast
from difffit_core.diffusion import add_noise, load_diffusion, per_sample_loss
from difffit_core.dit import load_autoencoder, load_transformer, null_label, replace_class_table
from difffit_core.errors import DatasetError, TrainingDiverged
from difffit_core.events import EventLog
from difffit_core.families import family_of
from difffit_core.latents import LatentSet, encode
from difffit_core.methods.injection import count_parameters, prepare, trained_parameters
from difffit_core.sampling import decode, grid, sample_latents
from difffit_core.spec import GenerationSpec, TrainingSpec
from difffit_core.stopping import Stopped, StopRequest
from difffit_core.training_state import TrainingState, newest_checkpoint, random_generator

PROGRESS_SECONDS = 0.5  # at least so long between progress events
RATE_STEPS = 20  # the rate is averaged over about so many steps
VALIDATION_BATCH = 64
VALIDATION_DRAWS = 512  # (image, timestep) pairs of a validation, at most
SAMPLE_CLASSES, SAMPLES_PER_CLASS = 8, 4  # rows and columns of a sample grid


class Trainer:
    """The run of one SPEC_DIR: construct, then `run()`."""

    def __init__(self, spec: TrainingSpec, folder: Path, device: torch.device, events: EventLog, stop: StopRequest) -> None:
        self.spec, self.h, self.folder, self.device, self.events = spec, spec.hyperparameters, folder, device, events
        self._stop = stop
        self.base = BaseModelEntry.in_folder(spec.base_model, Path(spec.base_model_path), spec.defaults)
        base_names = self.base.class_names()
        self.class_names = sorted(spec.dataset.classes)
        self.model = load_transformer(self.base.path)
        if self.class_names != base_names:
            replace_class_table(self.model, base_names, self.class_names)
        prepare(self.model, spec.method)
        self.model.to(device).train()
        if spec.compile:
            for block in self.model.transformer_blocks:
                block.compile()
        self.diffusion = load_diffusion(self.base.path, spec.defaults.min_snr_gamma).to(device)
        self.state = TrainingState(trained_parameters(self.model), self.h, spec.seed)

    def run(self) -> None:
        """Train to the end, or to a checkpoint where a stop is requested. Raises DiffFitError for what the user can mend."""
        began = time.monotonic()
        checkpoint = newest_checkpoint(self.folder / "checkpoints")
        if checkpoint is not None:
            self.state.load(checkpoint)
        resumed_from = self.state.step if checkpoint is not None else None
        trained, total = count_parameters(self.model)
        self.events.emit(
            "started",
            trained_parameters=trained,
            total_parameters=total,
            total_steps=self.h.steps,
            resumed_from=resumed_from,
            device=str(self.device),
        )
        try:
            self._run(began, fresh=resumed_from is None)
        except Stopped:
            self._checkpoint()
            self.events.emit("stopped", step=self.state.step)

    def _run(self, began: float, fresh: bool) -> None:
        self.vae = load_autoencoder(self.base.path).to(self.device)
        train, held_out = self._load_data()
        if fresh:
            self._validate(held_out, base=True)
            self._sample()
        self._train(train, held_out)
        self._validate(held_out)
        self._sample()
        with self._stop.deferred():
            self._write_adapter()
            self.events.emit("succeeded", seconds=round(time.monotonic() - began, 2))

    def _load_data(self) -> tuple[LatentSet, LatentSet | None]:
        items = read_index(self.folder / "dataset")
        if not items:
            raise DatasetError("The dataset holds no images.")
        size = self.base.image_size()

        def encoded(part: str, chosen: list[Item]) -> LatentSet:
            def progress(done: int, of: int) -> None:
                self.events.emit("encoding", part=part, done=done, total=of)

            cache = self.folder / f"latents-{part}.safetensors"
            return encode(chosen, self.folder / "dataset", self.class_names, self.vae, size, cache, progress).to(self.device)

        train, held_out = split(items, self.h.validation_fraction)
        return encoded("train", train), encoded("validation", held_out) if held_out else None

    def _train(self, train: LatentSet, held_out: LatentSet | None) -> None:
        """All steps that are left. What belongs after the last one is `_run`'s, so that a resumed run does it too."""
        seconds_a_step, reported = 0.0, 0.0
        while self.state.step < self.h.steps:
            started = time.monotonic()
            with self._stop.deferred():
                loss = self._step(train)
            if not math.isfinite(loss):
                raise TrainingDiverged(
                    f"The loss became {loss} at step {self.state.step}; the last checkpoint is kept. "
                    f"Try a lower learning rate than {self.h.learning_rate:g}.",
                    param="hyperparameters.learning_rate",
                )
            step, now = self.state.step, time.monotonic()
            share = 1 / min(step, RATE_STEPS) if seconds_a_step else 1.0
            seconds_a_step += share * (now - started - seconds_a_step)
            if now - reported >= PROGRESS_SECONDS or step == self.h.steps:
                reported = now
                self.events.emit(
                    "progress",
                    step=step,
                    total_steps=self.h.steps,
                    train_loss=round(loss, 6),
                    samples_per_second=round(self.h.batch_size / seconds_a_step, 3),
                    seconds_remaining=round((self.h.steps - step) * seconds_a_step, 1),
                )
            if step == self.h.steps:
                return
            if step % self.h.checkpoint_every == 0:
                with self._stop.deferred():
                    self._checkpoint()
            if step % self.h.validate_every == 0:
                self._validate(held_out)
            if step % self.h.sample_every == 0:
                self._sample()

    def _step(self, train: LatentSet) -> float:
        """One optimiser step on one batch; returns its loss."""
        indices = self.state.batch_indices(len(train)).to(self.device)  # [B]
        generator = random_generator(self.spec.seed, "step", self.state.step)
        batch = self.h.batch_size
        mirrored = torch.randint(0, 2, (batch,), generator=generator) * int(self.h.horizontal_flip)
        posterior_noise = torch.randn(batch, *train.mean.shape[2:], generator=generator)
        noise = torch.randn(batch, *train.mean.shape[2:], generator=generator)
        timesteps = torch.randint(0, self.diffusion.steps, (batch,), generator=generator)
        dropped = torch.rand(batch, generator=generator) < self.h.label_dropout
        latents = train.sample(indices, mirrored.to(self.device), posterior_noise.to(self.device), self._scaling())
        labels = torch.where(dropped.to(self.device), null_label(self.model), train.labels[indices])
        loss = self._loss(latents, noise.to(self.device), timesteps.to(self.device), labels).mean()
        loss.backward()
        self.state.update()
        return float(loss.detach())

    def _loss(self, latents: Tensor, noise: Tensor, timesteps: Tensor, labels: Tensor) -> Tensor:
        """Loss `[B]` of latents and noise `[B, C, H, W]`, timesteps and labels `[B]`."""
        noisy = add_noise(self.diffusion, latents, noise, timesteps)
        with training_autocast(self.device):
            output = self.model(noisy, timestep=timesteps, class_labels=labels).sample
        return per_sample_loss(self.diffusion, output.float(), latents, noise, timesteps)

    def _validate(self, held_out: LatentSet | None, base: bool = False) -> None:
        """Report the loss of the EMA weights, or of the untouched base, on the held-out images where there are any."""
        if held_out is not None:
            with self.state.averaged(), torch.compiler.set_stance("force_eager"):
                self.events.emit("validation", step=self.state.step, loss=self._held_out_loss(held_out), base=base)

    @torch.no_grad()
    def _held_out_loss(self, held_out: LatentSet) -> float:
        """Mean loss of the held-out images at fixed timesteps and with fixed noise, alike for every job and step."""
        images = min(len(held_out), VALIDATION_DRAWS)
        draws = max(1, VALIDATION_DRAWS // images)
        generator = random_generator(0, "validation", 0)
        indices = torch.arange(images).repeat(draws)  # [images * draws]
        stride = self.diffusion.steps / len(indices)
        timesteps = (torch.randperm(len(indices), generator=generator) * stride + stride / 2).long()
        noise = torch.randn(len(indices), *held_out.mean.shape[2:], generator=generator)
        losses = []
        for chosen in torch.arange(len(indices)).split(VALIDATION_BATCH):
            index = indices[chosen].to(self.device)
            upright, no_noise = torch.zeros_like(index), torch.zeros_like(noise[chosen]).to(self.device)
            latents = held_out.sample(index, upright, no_noise, self._scaling())
            batch = (noise[chosen].to(self.device), timesteps[chosen].to(self.device), held_out.labels[index])
            losses.append(self._loss(latents, *batch))
        return round(float(torch.cat(losses).mean()), 6)

    def _sample(self) -> None:
        """Write a grid of pictures of up to eight classes, from the same seeds at every step."""
        chosen = list(range(len(self.class_names)))[:: max(1, len(self.class_names) // SAMPLE_CLASSES)][:SAMPLE_CLASSES]
        labels = [label for label in chosen for _ in range(SAMPLES_PER_CLASS)]
        spec = GenerationSpec(
            labels=labels,
            steps=self.h.sample_steps,
            guidance_scale=self.h.guidance_scale,
            seed=self.spec.seed,
            scheduler=self.spec.defaults.scheduler,
        )
        with self.state.averaged(), inference_autocast(self.device), torch.compiler.set_stance("force_eager"):
            latents = sample_latents(self.model, self.base.path, spec)
        path = self.folder / "samples" / f"step-{self.state.step:06d}.png"
        path.parent.mkdir(exist_ok=True)
        grid(decode(self.vae, latents), SAMPLES_PER_CLASS).save(path)
        names = [self.class_names[label] for label in chosen]
        self.events.emit("sample", step=self.state.step, path=str(path.relative_to(self.folder)), labels=names)

    def _checkpoint(self) -> None:
        path = self.folder / "checkpoints" / f"step-{self.state.step:06d}"
        if not path.exists():
            size = self.state.save(path)
            self.events.emit("checkpoint", step=self.state.step, path=str(path.relative_to(self.folder)), bytes=size)

    def _write_adapter(self) -> None:
        path = self.folder / "adapter" / "adapter.safetensors"
        names, size = self.class_names, self.base.image_size()
        save_adapter(path, self.state.ema, self.spec, self.base.sha256(), family_of(self.model), names, size)
        data = path.read_bytes()
        self.events.emit(
            "adapter",
            path=str(path.relative_to(self.folder)),
            bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            class_names=self.class_names,
        )

    def _scaling(self) -> float:
        return float(self.vae.config.scaling_factor)
