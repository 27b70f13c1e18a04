"""Train one adapter on a frozen base: encode, validate, step, sample, checkpoint, and write the adapter."""

import hashlib
import math
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from difffit_core.adapters.file import save_adapter
from difffit_core.data.encoded_file import Buckets
from difffit_core.data.examples import VALIDATION_DRAWS, caption_pictures, load_examples
from difffit_core.errors import ModelError, SpecError
from difffit_core.evaluation.training import JobEvaluations
from difffit_core.families.registry import family_of
from difffit_core.runtime.devices import device_name, inference_autocast
from difffit_core.runtime.processes import Processes
from difffit_core.spec.job import TrainingSpec
from difffit_core.tasks.registry import ready_task
from difffit_core.tasks.task import Examples, Tensors
from difffit_core.training import initial_values
from difffit_core.training.checkpoints import step_name, step_of
from difffit_core.training.events import EventLog
from difffit_core.training.frozen_base import count_numbers
from difffit_core.training.state import TrainingState, diverged, random_generator
from difffit_core.training.stopping import Stopped, StopRequest

PROGRESS_SECONDS = 0.5  # at least so long between progress events
RATE_STEPS = 20  # the rate is averaged over about so many steps
VALIDATION_BATCH = 64


class Trainer:
    """The run of one SPEC_DIR: construct, then `run()`.

    Several processes can share a run. Each computes its part of every batch; gradients are added up; the first
    process does all the rest, while the others wait for its next gradient.
    """

    def __init__(self, spec: TrainingSpec, folder: Path, processes: Processes, events: EventLog, stop: StopRequest) -> None:
        self.spec, self.h, self.folder, self.processes, self.events = spec, spec.hyperparameters, folder, processes, events
        self._stop, self.device = stop, processes.device
        if self.h.batch_size < processes.count:
            raise SpecError(
                f"A batch of {self.h.batch_size} cannot be shared by {processes.count} processes.",
                param="hyperparameters.batch_size",
            )
        if processes.is_first:
            caption_pictures(spec, folder, self.device, events)  # before anything else reads the dataset
        self._evaluations: JobEvaluations | None = None
        if self.h.evaluate_every is not None and processes.is_first:
            self._evaluations = JobEvaluations(spec, folder, self.device, events)
        self.base = spec.base()
        self.task = ready_task(spec, self.base, self.device)
        self.model = self.task.model
        if spec.compile:
            for part in self.task.compiled_parts():
                part.compile()
        self.state = TrainingState(self.task.parameters(), self.h, spec.seed)
        self._others_wait = processes.is_first and processes.count > 1

    def run(self) -> None:
        """Train to the end, or to a checkpoint where a stop is requested. Raises DiffFitError for what the user can mend."""
        began = time.monotonic()
        resumed = self.state.load_newest(self.folder / "checkpoints", self._drop_damaged)
        initial = self.folder / initial_values.FILE
        if not resumed and initial.exists():
            names = self.task.class_names
            initial_values.begin_with(self.state, initial, self.spec, self.base.sha256(), names)
        resumed_from = self.state.step if resumed else None
        trained = self.state.parameters.values()
        self.events.emit(
            "started",
            trained_parameters=sum(p.numel() for p in trained),
            total_parameters=count_numbers(self.model, trained),
            total_steps=self.h.steps,
            resumed_from=resumed_from,
            device=str(self.device),
            device_name=device_name(self.device),
        )
        try:
            self.task.load_frozen()
            if self.processes.is_first:
                self._run(began, fresh=resumed_from is None)
            else:
                self._assist()
        except Stopped:
            if self._others_wait:
                self._add_up(self._no_loss(), stop=True)
            if self.processes.is_first:
                self._checkpoint()
                self.events.emit("stopped", step=self.state.step)

    def _drop_damaged(self, checkpoint: Path, error: ModelError) -> None:
        """Training goes on from one before it, and comes to write this one again."""
        if self.processes.is_first:
            self.events.emit("checkpoint_damaged", step=step_of(checkpoint), message=error.message)
            shutil.rmtree(checkpoint, ignore_errors=True)

    def _run(self, began: float, fresh: bool) -> None:
        train, held_out = self._load_data()
        with self._stop.deferred():
            self._add_up(self._no_loss())  # the others may read what was encoded
        if fresh:
            self._validate(held_out, base=not (self.folder / initial_values.FILE).exists())
            self._sample(held_out or train)
        self._train(train, held_out)
        self._others_wait = False
        self._validate(held_out)
        self._sample(held_out or train)
        self._evaluate()
        with self._stop.deferred():
            self._write_adapter()
            self.events.emit("succeeded", seconds=round(time.monotonic() - began, 2))

    def _assist(self) -> None:
        """The part of a process that is not the first: gradients, and nothing else."""
        self._add_up(self._no_loss())
        train, _ = self._load_data()
        while self.state.step < self.h.steps:
            self._step(train)

    def _load_data(self) -> tuple[Buckets, Buckets]:
        """What is trained on and what is held out, if anything is."""
        train, held_out = load_examples(self.spec, self.folder, self.task, self.events)
        self.task.release()
        return train, held_out

    def _train(self, train: Buckets, held_out: Buckets) -> None:
        """All steps that are left. What belongs after the last one is `_run`'s, so that a resumed run does it too."""
        seconds_a_step, reported = 0.0, 0.0
        self._evaluate_when_due()  # this run may go on where the one before was stopped while it evaluated
        while self.state.step < self.h.steps:
            started = time.monotonic()
            with self._stop.deferred():
                loss = self._step(train)
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
                self._sample(held_out or train)
            self._evaluate_when_due()

    def _step(self, train: Buckets) -> float:
        """One optimiser step on one batch, of which this process computes its share in portions; returns the batch's loss."""
        batch, step = self.h.batch_size, self.state.step
        bucket, indices = self.state.batch_indices([examples.classes for examples in train])  # [B]
        examples = train[bucket]
        drawn = self.task.draw(examples, batch, random_generator(self.spec.seed, "step", step))
        loss = self._no_loss()
        for portion in self.processes.share(batch).split(self.h.micro_batch_size):
            # What a model draws by itself, such as dropout, starts anew as well.
            torch.manual_seed(random_generator(self.spec.seed, f"model/{portion[0]}", step).initial_seed())
            losses = self.task.loss(examples, indices[portion].to(self.device), self._rows(drawn, portion))
            part = losses.sum() / batch
            part.backward()
            loss += part.detach()
        self._add_up(loss)
        if not math.isfinite(loss):
            raise diverged(f"The loss became {float(loss)}", step + 1, self.h)
        self.state.update()
        return float(loss)

    def _rows(self, drawn: Tensors, rows: Tensor) -> Tensors:
        return {name: tensor[rows].to(self.device) for name, tensor in drawn.items()}

    def _add_up(self, loss: Tensor, stop: bool = False) -> None:
        """Add loss and gradients of all processes up, in place; raises Stopped in all but the first where it says `stop`."""
        if self.processes.count == 1:
            return
        flag = torch.full((), float(stop), device=self.device)
        gradients = []
        for parameter in self.state.parameters.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        self.processes.add_up([loss, flag, *gradients])
        if flag and not stop:
            raise Stopped

    def _no_loss(self) -> Tensor:
        return torch.zeros((), device=self.device)

    def _validate(self, held_out: Buckets, base: bool = False) -> None:
        """Report the loss of the EMA weights, or of the untouched base, on the held-out examples where there are any."""
        if held_out:
            with self._averaged():
                self.events.emit("validation", step=self.state.step, loss=self._held_out_loss(held_out), base=base)

    @torch.no_grad()
    def _held_out_loss(self, held_out: Buckets) -> float:
        """Mean loss of the held-out examples with fixed random numbers, alike for every job and step."""
        draws = max(1, VALIDATION_DRAWS // sum(map(len, held_out))) if self.task.noisy else 1
        losses = [self._bucket_losses(examples, number, draws) for number, examples in enumerate(held_out)]
        return round(float(torch.cat(losses).mean()), 6)

    def _bucket_losses(self, examples: Examples, number: int, draws: int) -> Tensor:
        """The losses `[examples * draws]` of the held-out bucket of that number."""
        indices = torch.arange(len(examples)).repeat(draws)
        drawn = self.task.fixed_draw(examples, len(indices), random_generator(0, "validation", number))
        # Whoever holds less than a batch at a time has no room for a large one here either.
        portion = VALIDATION_BATCH if self.h.micro_batch_size >= self.h.batch_size else self.h.micro_batch_size
        losses = [
            self.task.loss(examples, indices[rows].to(self.device), self._rows(drawn, rows))
            for rows in torch.arange(len(indices)).split(portion)
        ]
        return torch.cat(losses)

    def _sample(self, buckets: Buckets) -> None:
        """Write what the EMA weights make."""
        stem = self.folder / "samples" / step_name(self.state.step)
        stem.parent.mkdir(exist_ok=True)
        with self._drawing():
            path, labels = self.task.preview(buckets, stem)
        self.events.emit("sample", step=self.state.step, path=str(path.relative_to(self.folder)), labels=labels)

    def _evaluate_when_due(self) -> None:
        if self.h.evaluate_every is not None and self.state.step and self.state.step % self.h.evaluate_every == 0:
            self._evaluate()

    def _evaluate(self) -> None:
        """Measure what the EMA weights make, unless this step's figures are reported already."""
        if self._evaluations is not None:
            with self._drawing():
                self._evaluations.run(self.state.step, self.task)

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        """While this is open the model makes pictures with its EMA weights."""
        with self._averaged(), inference_autocast(self.device), torch.no_grad():
            yield
        self.task.release()

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """While this is open the model has its EMA weights. A stop breaks off what is done with them, never the exchange."""
        eager = torch.compiler.set_stance("force_eager")
        with self._stop.deferred(), self.state.averaged(), self._stop.interruptible(), eager:
            yield

    def _checkpoint(self) -> None:
        path = self.folder / "checkpoints" / step_name(self.state.step)
        if not path.exists():
            size = self.state.save(path)
            self.events.emit("checkpoint", step=self.state.step, path=str(path.relative_to(self.folder)), bytes=size)

    def _write_adapter(self) -> None:
        path = self.folder / "adapter" / "adapter.safetensors"
        family, names = family_of(self.model), self.task.class_names
        save_adapter(path, self.state.ema, self.spec, self.base.sha256(), family, names, self.h.resolution)
        data = path.read_bytes()
        self.events.emit(
            "adapter",
            path=str(path.relative_to(self.folder)),
            bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            class_names=names,
        )
