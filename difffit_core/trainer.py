"""Train one adapter on a frozen base: encode, validate, step, sample, checkpoint, and write the adapter."""

import hashlib
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from difffit_core import initial_values
from difffit_core.adapter_file import save_adapter
from difffit_core.buckets import size_name
from difffit_core.captions import FILE as CAPTIONS
from difffit_core.captions import read_items, write_missing_captions
from difffit_core.dataset import Item, by_size, split
from difffit_core.devices import inference_autocast
from difffit_core.encoded_file import Buckets, Parts, kept_captions, read_encoded, write_encoded
from difffit_core.encodings import FILE, sizes_of
from difffit_core.errors import DatasetError, SpecError, TrainingDiverged
from difffit_core.evaluation.training import JobEvaluations
from difffit_core.events import EventLog
from difffit_core.families import family_of
from difffit_core.frozen_base import store_base
from difffit_core.processes import Processes
from difffit_core.spec import TrainingSpec
from difffit_core.stopping import Stopped, StopRequest
from difffit_core.tasks.registry import load_task
from difffit_core.tasks.task import Examples, Tensors
from difffit_core.training_state import TrainingState, newest_checkpoint, random_generator

PROGRESS_SECONDS = 0.5  # at least so long between progress events
RATE_STEPS = 20  # the rate is averaged over about so many steps
SHOWN_CAPTIONS = 10  # of those that were written, in an event
VALIDATION_BATCH = 64
VALIDATION_DRAWS = 512  # (example, random numbers) pairs of a validation, at most


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
            self._write_captions()
        self._evaluations: JobEvaluations | None = None
        if self.h.evaluate_every is not None and processes.is_first:
            self._evaluations = JobEvaluations(spec, folder, self.device, events)
        self.base = spec.base()
        self.task = load_task(spec, self.base, self.device)
        self.model = self.task.model
        self.task.prepare()
        store_base(self.model, self.h.base_precision)
        self.model.to(self.device).train()
        if self.h.gradient_checkpointing:
            self.task.use_gradient_checkpointing()
        if spec.compile:
            for part in self.task.compiled_parts():
                part.compile()
        self.state = TrainingState(self.task.parameters(), self.h, spec.seed)
        self._others_wait = processes.is_first and processes.count > 1

    def _write_captions(self) -> None:
        """Before anything else reads the dataset; what was written for the encodings that are there is not written again."""
        encoded, kept = self.folder / FILE, self.folder / CAPTIONS
        if encoded.exists() and not kept.exists():
            kept.write_text(kept_captions(encoded))

        def progress(done: int, of: int) -> None:
            self.events.emit("encoding", part="captions", done=done, total=of)

        captions = write_missing_captions(self.spec, self.folder, self.device, progress)
        if captions:
            examples = [{"file": file, "caption": caption} for file, caption in islice(captions.items(), SHOWN_CAPTIONS)]
            self.events.emit("captioned", pictures=len(captions), examples=examples)

    def run(self) -> None:
        """Train to the end, or to a checkpoint where a stop is requested. Raises DiffFitError for what the user can mend."""
        began = time.monotonic()
        checkpoint = newest_checkpoint(self.folder / "checkpoints")
        initial = self.folder / initial_values.FILE
        if checkpoint is not None:
            self.state.load(checkpoint)
        elif initial.exists():
            names = self.task.class_names
            initial_values.begin_with(self.state, initial, self.spec, self.base.sha256(), names)
        resumed_from = self.state.step if checkpoint is not None else None
        everything = {*self.model.parameters(), *self.state.parameters.values()}
        self.events.emit(
            "started",
            trained_parameters=sum(p.numel() for p in self.state.parameters.values()),
            total_parameters=sum(p.numel() for p in everything),
            total_steps=self.h.steps,
            resumed_from=resumed_from,
            device=str(self.device),
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
            self._check(self._step(train))

    def _load_data(self) -> tuple[Buckets, Buckets]:
        """What is trained on and what is held out, if anything is."""
        items = read_items(self.spec, self.folder)
        if not items:
            raise DatasetError("The dataset holds no examples.")
        for message in self.task.warnings(items):
            self.events.emit("warning", message=message)
        train, held_out = split(items, self.h.validation_fraction)
        parts = {"train": train, "validation": held_out[:VALIDATION_DRAWS]}  # a validation draws no more
        buckets = self._kept(parts) or self._encode(parts)
        self.task.release()
        self._warn_of_small(buckets["train"])
        return buckets["train"], buckets["validation"]

    def _kept(self, parts: Parts) -> dict[str, Buckets] | None:
        """What this job or another has encoded already, where it can be used."""
        path = self.folder / FILE
        if not path.exists():
            return None
        try:
            buckets = read_encoded(path, parts, self.device)
        except DatasetError as error:
            self.events.emit("warning", message=f"The examples are encoded anew: {error.message}")
            return None
        self.events.emit("encodings_reused", examples=sum(map(len, parts.values())))
        return buckets

    def _encode(self, parts: Parts) -> dict[str, Buckets]:
        """The examples of each part, kept in a file from which an interrupted job, or another one, goes on."""
        path = self.folder / FILE
        buckets = {part: self._encode_part(part, items) for part, items in parts.items()}
        captions = self.folder / CAPTIONS
        write_encoded(path, parts, buckets, captions.read_text() if captions.exists() else "")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self.events.emit("encoded", path=FILE, bytes=path.stat().st_size, sha256=digest)
        return read_encoded(path, parts, self.device)

    def _encode_part(self, part: str, items: list[Item]) -> Buckets:
        dataset, buckets, before = self.folder / "dataset", list[Examples](), 0

        def progress(done: int, of: int) -> None:
            self.events.emit("encoding", part=part, done=before + done, total=max(len(items), before + of))

        sizes = sizes_of(self.spec)
        groups = by_size(items, dataset, sizes) if sizes else {None: items}
        for size, members in groups.items() if items else ():
            buckets.append(Examples(members, self.task.encode(members, dataset, size, progress), size))
            before += len(members)
        return buckets

    def _warn_of_small(self, buckets: Buckets) -> None:
        batch = self.h.batch_size
        small = [f"{size_name(b.size)} ({len(b)})" for b in buckets if b.size is not None and len(b) < batch]
        if small and self.h.aspect == "buckets":
            message = f"These buckets hold fewer pictures than a batch of {batch}, and repeat them in it: {', '.join(small)}."
            self.events.emit("warning", message=f"{message} Each picture is still seen as often as any other.")

    def _train(self, train: Buckets, held_out: Buckets) -> None:
        """All steps that are left. What belongs after the last one is `_run`'s, so that a resumed run does it too."""
        seconds_a_step, reported = 0.0, 0.0
        self._evaluate_when_due()  # this run may go on where the one before was stopped while it evaluated
        while self.state.step < self.h.steps:
            started = time.monotonic()
            with self._stop.deferred():
                loss = self._step(train)
            self._check(loss)
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

    def _check(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise TrainingDiverged(
                f"The loss became {loss} at step {self.state.step}; the last checkpoint is kept. "
                f"Try a lower learning rate than {self.h.learning_rate:g}.",
                param="hyperparameters.learning_rate",
            )

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
        stem = self.folder / "samples" / f"step-{self.state.step:06d}"
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
        path = self.folder / "checkpoints" / f"step-{self.state.step:06d}"
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
