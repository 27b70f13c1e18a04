"""Everything that belongs to one adapter while it trains: parameters, optimiser, EMA, step and random numbers."""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from difffit_core.errors import ModelError, TrainingDiverged
from difffit_core.spec.job import ResolvedHyperparameters
from difffit_core.training.checkpoints import TENSORS, check_whole, damaged, newest_first, seal

DECAY_SHARE = 0.2  # of the steps: the last part of "warmup-stable-decay"
MOMENTS = ("exp_avg", "exp_avg_sq")  # what AdamW keeps of each parameter's gradients


def random_generator(seed: int, stream: str, step: int) -> torch.Generator:
    """Random numbers that depend on (seed, stream, step) alone, so that a resumed run draws what it would have drawn."""
    digest = hashlib.blake2b(f"{seed}/{stream}/{step}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest) >> 1)


def learning_rate(h: ResolvedHyperparameters, step: int) -> float:
    """The learning rate of step `step` (counted from 1): a linear warm-up, then the schedule's shape."""
    if step <= h.warmup_steps:
        return h.learning_rate * step / h.warmup_steps
    if h.lr_schedule == "cosine":
        done = (step - h.warmup_steps) / max(1, h.steps - h.warmup_steps)
        return h.learning_rate * 0.5 * float(1 + torch.cos(torch.tensor(done * torch.pi)))
    if h.lr_schedule == "warmup-stable-decay":
        return h.learning_rate * min(1.0, (h.steps - step + 1) / max(1.0, DECAY_SHARE * h.steps))
    return h.learning_rate


def bucket_turn(counts: Sequence[int], seed: int, step: int) -> tuple[int, int]:
    """Which bucket has its turn at `step` (counted from 0), and how many it had before, for buckets of so many examples.

    Turn j of a bucket with n of all N examples is due at the time (j + offset) N / n, and steps follow these times: over any
    number of steps a bucket has its share of the turns, give or take one, and so every example is seen equally often.
    """
    total, common = sum(counts), math.lcm(*counts)
    offsets = torch.randint(total, (len(counts),), generator=random_generator(seed, "buckets", 0)).tolist()  # in 1/N
    early = max(0, step - len(counts))  # a time before which at most `step` turns are due
    turns = [max(0, -((offset - early * count) // total)) for offset, count in zip(offsets, counts, strict=True)]

    def due(bucket: int) -> int:
        return int(turns[bucket] * total + offsets[bucket]) * (common // counts[bucket])

    while True:
        bucket = min(range(len(counts)), key=due)
        if sum(turns) == step:
            return bucket, turns[bucket]
        turns[bucket] += 1


class TrainingState:
    """One adapter in training. Holds no reference to the base, so that several can share one."""

    def __init__(self, parameters: dict[str, nn.Parameter], hyperparameters: ResolvedHyperparameters, seed: int) -> None:
        self.parameters = parameters
        self.hyperparameters = hyperparameters
        self.seed = seed
        self.step = 0
        self.optimizer = torch.optim.AdamW(
            list(parameters.values()),
            lr=hyperparameters.learning_rate,
            betas=(0.9, 0.999),
            weight_decay=hyperparameters.weight_decay,
            fused=True,
        )
        self.ema = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        self._orders: dict[str, tuple[int, Tensor]] = {}

    def batch_indices(self, buckets: Sequence[Sequence[Tensor]]) -> tuple[int, Tensor]:
        """The bucket of the next step and its examples `[B]`, where `buckets` are the examples of each class in each bucket.

        Uniform: epochs of a bucket's shuffled examples, run together without a gap, so that a bucket of fewer examples than a
        batch repeats them in it. Balanced: epochs of shuffled classes, and within each class epochs of its shuffled examples.
        All depends on the seed and the step alone.
        """
        bucket, number = bucket_turn([sum(map(len, classes)) for classes in buckets], self.seed, self.step)
        return bucket, self._examples(buckets[bucket], bucket, number)

    def _examples(self, classes: Sequence[Tensor], bucket: int, number: int) -> Tensor:
        """Those `[B]` of the bucket's batch of that number."""
        batch = self.hyperparameters.batch_size
        turns = range(number * batch, (number + 1) * batch)
        if self.hyperparameters.sampler == "uniform":
            return torch.stack(self._in_shuffled_epochs(torch.arange(sum(map(len, classes))), f"order/{bucket}", turns))
        chosen = self._in_shuffled_epochs(torch.arange(len(classes)), "classes", turns)
        examples = []
        for turn, number in zip(turns, map(int, chosen), strict=True):
            # Every class had its turn once in each earlier epoch of classes.
            examples += self._in_shuffled_epochs(classes[number], f"class/{number}", [turn // len(classes)])
        return torch.stack(examples)

    def _in_shuffled_epochs(self, members: Tensor, stream: str, turns: Sequence[int]) -> list[Tensor]:
        """Whose turn it is at each of `turns`, where all `members` have one in every epoch, in another order each time."""
        count = len(members)
        return [members[self._order(count, stream, turn // count)[turn % count]] for turn in turns]

    def _order(self, count: int, stream: str, epoch: int) -> Tensor:
        """A shuffled order `[count]`. That of a stream's last epoch is kept: a class is asked for one example at a time."""
        kept_epoch, order = self._orders.get(stream, (-1, torch.empty(0)))
        if (kept_epoch, len(order)) != (epoch, count):
            order = torch.randperm(count, generator=random_generator(self.seed, stream, epoch))
            self._orders[stream] = epoch, order
        return order

    def update(self) -> None:
        """One optimiser step from the gradients that lie in the parameters, then the EMA's.

        Raises TrainingDiverged, and changes nothing, where a gradient is not finite, as it may be of a finite loss.
        """
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.hyperparameters.max_grad_norm)
        if not norm.isfinite():
            raise diverged(f"The gradient became {float(norm)}", self.step + 1, self.hyperparameters)
        self.step += 1
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.hyperparameters, self.step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        # A decay of 0.9999 would keep a short run at its start; early steps average over what there is.
        decay = min(self.hyperparameters.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.ema.values()), list(self.parameters.values()), 1 - decay)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """While this is open the parameters hold their EMA; the trained values come back at its end, however it ends."""
        self._swap_with_ema()
        try:
            yield
        finally:
            self._swap_with_ema()

    def _swap_with_ema(self) -> None:
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                value = parameter.clone()
                parameter.copy_(self.ema[name])
                self.ema[name].copy_(value)

    def save(self, folder: Path) -> int:
        """Write a checkpoint folder in one move; returns its bytes. Raises TrainingDiverged where a number is not finite."""
        tensors = {f"parameter/{name}": parameter.detach() for name, parameter in self.parameters.items()}
        tensors |= {f"ema/{name}": value for name, value in self.ema.items()}
        for name, parameter in self.parameters.items():
            moments = self.optimizer.state.get(parameter, {})
            tensors |= {f"{key}/{name}": moments[key] for key in MOMENTS if key in moments}
        broken = next((name for name, value in tensors.items() if not value.isfinite().all()), None)
        if broken is not None:
            raise diverged(f"{broken} came to hold a number that is not finite", self.step, self.hyperparameters)
        part = folder.with_suffix(".part")
        part.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous().cpu() for name, value in tensors.items()}, part / TENSORS)
        seal(part, self.step, seed=self.seed)
        part.rename(folder)
        return sum(file.stat().st_size for file in folder.iterdir())

    def load_newest(self, checkpoints: Path, on_damaged: Callable[[Path, ModelError], None]) -> bool:
        """Go on, exactly, from the newest checkpoint of a folder that is whole, if there is one.

        `on_damaged` hears of newer ones that are not. Raises ModelError where it is another training's.
        """
        for folder in newest_first(checkpoints):
            try:
                step = check_whole(folder)
                tensors = load_file(folder / TENSORS)
            except (ModelError, OSError, SafetensorError) as error:
                on_damaged(folder, error if isinstance(error, ModelError) else damaged(folder, str(error)))
                continue
            self._check_own(tensors, folder)
            self.restore(tensors, step)
            return True
        return False

    def _check_own(self, tensors: dict[str, Tensor], folder: Path) -> None:
        """Before anything is changed."""
        found = {name: tensor.shape for name, tensor in tensors.items() if not name.startswith(MOMENTS)}
        own = {f"{kind}/{name}": p.shape for kind in ("parameter", "ema") for name, p in self.parameters.items()}
        if found != own:
            raise ModelError(
                f"The checkpoint {folder.name} is of another training: it holds other tensors than this one trains. "
                "Remove it, or give it the training that it was written by.",
                code="invalid_checkpoint",
            )

    def restore(self, tensors: dict[str, Tensor], step: int) -> None:
        """Be as after `step` steps, which left `tensors`; each goes to the device where this training has it."""
        self.step = step
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[f"parameter/{name}"])
                self.ema[name].copy_(tensors[f"ema/{name}"])
        self.restore_moments(tensors, step)

    def restore_moments(self, tensors: dict[str, Tensor], step: int) -> None:
        """The optimizer's part of `restore`: it knows itself where it wants each tensor, a fused one its `step` on the GPU."""
        kept = {
            number: {key: tensors[f"{key}/{name}"] for key in MOMENTS} | {"step": torch.tensor(float(step))}
            for number, name in enumerate(self.parameters)
            if f"{MOMENTS[0]}/{name}" in tensors
        }
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": kept})


def diverged(what: str, step: int, hyperparameters: ResolvedHyperparameters) -> TrainingDiverged:
    return TrainingDiverged(
        f"{what} at step {step}; the last checkpoint is kept. "
        f"Try a lower learning rate than {hyperparameters.learning_rate:g}.",
        param="hyperparameters.learning_rate",
    )
