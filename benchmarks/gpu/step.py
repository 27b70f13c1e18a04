"""What does a training step cost? DiT-XL/2, then SD 1.5's UNet and a Llama of a billion, with random weights.

A case is a base, a method, a micro-batch, eager or compiled. The cases stand in the order of their worth, and those for
which there is no time are left out.
"""

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.bases import base_in
from benchmarks.gpu.record import Clock, Record, Row, scratch
from benchmarks.trainings import Training, job, load, matmul_flops_per_second, precision, synchronize
from difffit_core.runtime.devices import is_out_of_memory, pick_device

METHODS = ("difffit", "full", "lora-r8", "bitfit")
GOALS = {"matmul_share": 0.55, "ratio_to_full": 0.60, "memory_to_lora": 1.0}  # of DiffFit on DiT-XL/2 at 256 pixels
MATMUL_SIZE, SMALL_MATMUL_SIZE = 8192, 256
MEASURED_SECONDS, FEWEST, MOST = 0.8, 3, 20  # steps of a case are timed for so long, and are so many
WARM_UP = 2  # the second step is the first whose optimiser has its state
FLOPS_BATCH = 2  # of which the operations are counted: an example has as many in any batch
KERNELS, PROFILED_STEPS = 10, 2
# What a case takes beside the timed steps; a compiled one of a new shape waits for the compiler.
EAGER_SECONDS, COMPILED_SECONDS = 4.0, 15.0


@dataclass(frozen=True)
class Case:
    base: str
    method: str
    batch: int
    compiled: bool = False


def cases() -> Iterator[Case]:
    """The goals' first: all methods at one good batch; then the batches around it; then the other bases."""
    dit, large = "dit-xl-2-256", "dit-xl-2-512"
    for compiled in (False, True):
        yield from (Case(dit, method, 128, compiled) for method in METHODS)
    yield Case(dit, "difffit", 256, compiled=True)
    yield from (Case(dit, method, 256) for method in METHODS)
    yield from (Case(large, method, 32) for method in METHODS)
    yield from (Case("sd-1.5", method, 16) for method in ("difffit", "full", "lora-r8"))
    yield from (Case("llama-1b", method, 16) for method in ("difffit", "full", "lora-r8"))
    yield from (Case(dit, "difffit", batch) for batch in (64, 32, 512))
    yield from (Case(large, method, 32, compiled=True) for method in ("difffit", "full"))
    yield from (Case(dit, method, 256, compiled=True) for method in METHODS[1:])
    yield from (Case(large, "difffit", batch) for batch in (64, 128))
    yield from (Case("sd-1.5", "difffit", batch) for batch in (32, 64))
    yield from (Case(dit, method, batch) for batch in (64, 32) for method in METHODS[1:])


def small_cases() -> Iterator[Case]:
    yield from (Case("dit-small", method, 4) for method in METHODS)
    yield Case("sd-small", "difffit", 2)
    yield Case("llama-small", "difffit", 2)


def run(record: Record, small: bool, seconds: float) -> None:
    clock, device = Clock(seconds), pick_device("auto")
    if not small:
        compile_statically()
    matmul = matmul_flops_per_second(device, SMALL_MATMUL_SIZE if small else MATMUL_SIZE)
    record.write(precision=precision(device), matmul_tflops=round(matmul / 1e12, 3), goals=GOALS)
    bench = Bench(device, matmul, small)
    for case in small_cases() if small else cases():
        if clock.left < (COMPILED_SECONDS if case.compiled else EAGER_SECONDS):
            record.add("left_out", asdict(case))
            continue
        row = bench.measure(case)
        record.add("cases", row)
        best = best_of(record.figures["cases"], "difffit")
        record.write(goals_reached=reached(record.figures["cases"]))
        if row is best and (small or len(record.figures["cases"]) > len(METHODS)):  # after the first round of all methods
            record.write(profile=asdict(case) | {"kernels": bench.largest_kernels()})
    bench.forget()


def compile_statically() -> None:
    """One graph for each shape, and as many as there are cases, where the compiler would make sizes variable or give up.

    Its helpers are started here: they take seconds, in which the first cases run.
    """
    import torch._inductor.async_compile

    torch._dynamo.config.automatic_dynamic_shapes = False
    torch._dynamo.config.recompile_limit = 256


class Bench:
    """Holds one task at a time, for the cases that follow each other on it."""

    def __init__(self, device: torch.device, matmul: float, small: bool) -> None:
        self.device, self.matmul, self.folder = device, matmul, scratch() / "bases"
        self.small = small
        self.training: Training | None = None

    def measure(self, case: Case) -> Row:
        """The figures of a case, or why there are none."""
        began = time.perf_counter()
        try:
            row = self._figures(case)
        except Exception as error:
            if not is_out_of_memory(error):
                row = {"error": f"{type(error).__name__}: {error}"[:500]}
            else:
                row = {"error": "out of memory"}
            error.__traceback__ = None  # its frames hold the activations
            self.forget()
        row = asdict(case) | row | {"took_seconds": round(time.perf_counter() - began, 1)}
        print(row, flush=True)
        return row

    def _figures(self, case: Case) -> Row:
        self.forget()
        training = self.training = self._training(case)
        flops = case.batch * self._flops_of_example(case)
        graphs, began = compiled_graphs(), time.perf_counter()
        for part in training.task.compiled_parts() if case.compiled else ():
            part.compile()
        reset_peak(self.device)
        for _ in range(WARM_UP):
            training()
        synchronize(self.device)
        row: Row = {"warm_up_seconds": round(time.perf_counter() - began, 2)}
        if case.compiled:
            row["graphs"] = compiled_graphs() - graphs
        seconds = timed(training, self.device, self._shortest())
        drawn = training.drawn()
        computing = timed(lambda: training.compute(drawn), self.device, self._shortest() / 2)
        row |= {
            "seconds": round(seconds, 5),
            "examples_per_second": round(case.batch / seconds, 2),
            "matmul_share": round(flops / seconds / self.matmul, 4),
            "compute_seconds": round(computing, 5),
            "compute_matmul_share": round(flops / computing / self.matmul, 4),
            "tflops_per_example": round(flops / case.batch / 1e12, 5),
            "trained": sum(parameter.numel() for parameter in training.state.parameters.values()),
        }
        return row | peak(self.device)

    def _shortest(self) -> float:
        return 0.0 if self.small else MEASURED_SECONDS

    def _training(self, case: Case) -> Training:
        base = base_in(self.folder, case.base)
        settings: dict[str, Any] = {"max_tokens": 32 if self.small else 512} if base.family == "llama" else {}
        settings |= {"batch_size": case.batch, "micro_batch_size": case.batch}
        return Training(load(job(base, case.method, case.batch, **settings), self.device))

    def _flops_of_example(self, case: Case) -> float:
        """Of matrix products, convolutions and attention, forward and backward, as they are computed without a compiler."""
        assert self.training is not None
        task, examples = self.training.task, min(FLOPS_BATCH, case.batch)
        rows = {name: tensor[:examples].to(self.device) for name, tensor in self.training.drawn().items()}
        with FlopCounterMode(display=False) as counter:
            task.loss(self.training.examples, torch.arange(examples, device=self.device), rows).sum().backward()
        self.training.state.optimizer.zero_grad(set_to_none=True)
        return int(counter.get_total_flops()) / examples

    def largest_kernels(self) -> list[Row]:
        """Where the time of the last case's steps goes."""
        assert self.training is not None
        on_gpu = self.device.type == "cuda"
        with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiler:
            for _ in range(PROFILED_STEPS):
                self.training()
            synchronize(self.device)
        own: Callable[[Any], float] = (lambda e: e.self_device_time_total) if on_gpu else (lambda e: e.self_cpu_time_total)
        events = sorted(profiler.key_averages(), key=own, reverse=True)
        total = sum(map(own, events))
        return [
            {
                "kernel": event.key[:160],
                "milliseconds_a_step": round(own(event) / 1000 / PROFILED_STEPS, 3),
                "calls_a_step": event.count // PROFILED_STEPS,
                "share": round(own(event) / total, 4),
            }
            for event in events[:KERNELS]
        ]

    def forget(self) -> None:
        """Let go of the task and of all that the allocator keeps."""
        self.training = None
        gc.collect()
        torch._dynamo.reset()  # compiled code holds the modules it was made for
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def timed(step: Callable[[], object], device: torch.device, shortest: float) -> float:
    """The median seconds of steps, each of which waits for the device."""
    seconds = list[float]()
    while len(seconds) < FEWEST or (sum(seconds) < shortest and len(seconds) < MOST):
        synchronize(device)
        began = time.perf_counter()
        step()
        synchronize(device)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def compiled_graphs() -> int:
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak(device: torch.device) -> Row:
    """The most bytes at once, the model included: of tensors, and of what the allocator held for them. A CPU does not say."""
    if device.type != "cuda":
        return {"peak_bytes": None, "reserved_bytes": None}
    return {
        "peak_bytes": torch.cuda.max_memory_allocated(device),
        "reserved_bytes": torch.cuda.max_memory_reserved(device),
    }


def best_of(rows: Sequence[Row], method: str) -> Row | None:
    """The case of a method on the first case's base that trains most examples a second."""
    found = [row for row in rows if row["base"] == rows[0]["base"] and row["method"] == method and "seconds" in row]
    return max(found, key=lambda row: row["examples_per_second"], default=None)


def reached(rows: Sequence[Row]) -> Row:
    """DiffFit's figures beside its goals: its best share, and the least favourable of its comparisons at one batch."""
    best = best_of(rows, "difffit")
    if best is None:
        return {}

    def ratios(figure: str, other: str) -> list[float]:
        key = ("base", "batch", "compiled")
        theirs = {tuple(row[k] for k in key): row.get(figure) for row in rows if row["method"] == other}
        pairs = [(row.get(figure), theirs.get(tuple(row[k] for k in key))) for row in rows if row["method"] == "difffit"]
        return [round(own / others, 4) for own, others in pairs if own and others]

    return {
        "matmul_share": best["matmul_share"],
        "ratio_to_full": ratios("seconds", "full"),
        "memory_to_lora": ratios("peak_bytes", "lora-r8"),
    }


def summary(figures: Row) -> list[str]:
    lines = [f"{figures['precision']}, matrix product {figures['matmul_tflops']} TFLOP/s"]
    lines.append(
        f"{'base':<14}{'method':<9}{'batch':>6}  {'':<9}{'s/step':>9}{'/s':>10}{'share':>8}{'(compute)':>10}{'peak GB':>9}"
    )
    for row in figures.get("cases", []):
        case = f"{row['base']:<14}{row['method']:<9}{row['batch']:>6}  {'compiled' if row['compiled'] else 'eager':<9}"
        if "error" in row:
            lines.append(case + row["error"][:90])
            continue
        memory = "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e9:.1f}"
        speed = f"{row['seconds']:>9.4f}{row['examples_per_second']:>10.1f}"
        lines.append(f"{case}{speed}{row['matmul_share']:>8.3f}{row['compute_matmul_share']:>10.3f}{memory:>9}")
    lines.append(f"goals {figures['goals']}, reached {figures.get('goals_reached')}")
    lines += [
        f"{kernel['share']:>6.1%} {kernel['milliseconds_a_step']:>9.3f} ms {kernel['kernel'][:90]}"
        for kernel in figures.get("profile", {}).get("kernels", [])
    ]
    return lines
