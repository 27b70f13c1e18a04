"""Put the figures of a run into docs/performance.md, as tables and pictures: `python -m benchmarks.gpu.report DIR`."""

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmarks.gpu.record import Record, Row

DOCS = Path(__file__).parent.parent.parent / "docs"
METHODS = ("difffit", "bitfit", "lora-r8", "full")
SIZE, DPI = (7.0, 3.6), 120


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="Where benchmarks.gpu has written its JSON files")
    parser.add_argument("--docs", type=Path, default=DOCS, help="The folder of performance.md")
    arguments = parser.parse_args()
    page = arguments.docs / "performance.md"
    text = page.read_text()
    for name, section in SECTIONS.items():
        figures = Record(arguments.folder / f"{name}.json").figures
        if figures:
            text = filled(text, name, [measured_on(figures), "", *section(figures, arguments.docs / "images")])
    page.write_text(text)


def filled(text: str, name: str, lines: Sequence[str]) -> str:
    """The page with these lines between the marks of a section."""
    marks = re.compile(rf"(<!-- figures: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    found = marks.search(text)
    if found is None:
        raise SystemExit(f"docs/performance.md has no marks for the figures of {name}.")
    return text[: found.end(1)] + "\n".join([*lines, ""]) + text[found.start(2) :]


def measured_on(figures: Row) -> str:
    machine, packages = figures["machine"], figures["machine"]["packages"]
    driver = f", driver {machine['driver']}" if machine["driver"] else ""
    commit = f", commit {machine['commit']}" if machine["commit"] else ""
    return (
        f"Measured on {machine['date'][:10]}: {machine['device']}{driver}, PyTorch {packages['torch']}, diffusers "
        f"{packages['diffusers']}, Python {machine['python']}{commit}; `{figures['command']}`, {figures['status']} "
        f"after {figures['seconds']:.0f} s."
    )


def tests(figures: Row, _: Path) -> list[str]:
    lines = [f"{figures['passed']} passed, {figures['failed']} failed, {figures['skipped']} skipped."]
    return lines + [f"- failed: `{row['test']}`" for row in figures.get("failures", [])]


def step(figures: Row, images: Path) -> list[str]:
    rows = figures.get("cases", [])
    rate = f"One 8192³ matrix product reaches {figures['matmul_tflops']:.0f} TFLOP/s in {figures['precision']}."
    head = ("base", "method", "micro-batch", "", "s a step", "examples/s", "share of the product's rate", "peak GB")
    lines = [rate, "", *table(head, [step_row(row) for row in rows]), ""]
    goals, found = figures.get("goals", {}), figures.get("goals_reached", {})
    lines += table(("goal of DiffFit on DiT-XL/2 at 256 pixels", "wanted", "found"), goal_rows(goals, found))
    measured = [row for row in rows if "seconds" in row and row["base"] == rows[0]["base"]]
    if measured:
        draw(images / "performance-step.png", lambda axes: speeds(axes, measured))
        lines += ["", "![Examples a second by micro-batch.](images/performance-step.png)"]
    if any(row["peak_bytes"] is not None for row in measured):
        draw(images / "performance-memory.png", lambda axes: memories(axes, measured))
        lines += ["", "![Peak memory by micro-batch.](images/performance-memory.png)"]
    kernels = figures.get("profile", {}).get("kernels", [])
    if kernels:
        what = figures["profile"]
        how = "compiled" if what["compiled"] else "eager"
        lines += ["", f"Where the time of {what['method']} on {what['base']} goes, {how}, {what['batch']} at a time:", ""]
        shown = [(f"`{k['kernel'][:80]}`", f"{k['milliseconds_a_step']:.2f}", f"{k['share']:.1%}") for k in kernels]
        lines += table(("kernel", "ms a step", "share"), shown)
    return lines


def step_row(row: Row) -> tuple[str, ...]:
    case = (row["base"], row["method"], str(row["batch"]), "compiled" if row["compiled"] else "eager")
    if "error" in row:
        return (*case, row["error"].splitlines()[0][:60], "", "", "")
    memory = "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e9:.1f}"
    return (*case, f"{row['seconds']:.4f}", f"{row['examples_per_second']:.1f}", f"{row['matmul_share']:.3f}", memory)


def goal_rows(goals: Row, found: Row) -> list[tuple[str, ...]]:
    names = {
        "matmul_share": ("share of the matrix product's rate, at its best batch", "≥"),
        "ratio_to_full": ("seconds beside full fine-tuning's, at each batch that both have", "≤"),
        "memory_to_lora": ("peak memory beside LoRA r8's, likewise", "≤"),
    }
    return [
        (what, f"{sign} {goals[name]:.2f}", str(found.get(name, "not measured")).strip("[]") or "not measured")
        for name, (what, sign) in names.items()
        if name in goals
    ]


def speeds(axes: Axes, rows: Sequence[Row]) -> None:
    lines(axes, rows, lambda row: row["examples_per_second"])
    axes.set(xlabel="micro-batch", ylabel="examples a second", title=f"{rows[0]['base']}: speed of a training step")


def memories(axes: Axes, rows: Sequence[Row]) -> None:
    lines(axes, rows, lambda row: row["peak_bytes"] / 1e9)
    axes.set(xlabel="micro-batch", ylabel="peak GB", title=f"{rows[0]['base']}: memory of a training step")


def lines(axes: Axes, rows: Sequence[Row], figure: Callable[[Row], float]) -> None:
    """One line a method, dashed without the compiler."""
    for number, method in enumerate(METHODS):
        for compiled in (False, True):
            own = sorted((r["batch"], figure(r)) for r in rows if (r["method"], r["compiled"]) == (method, compiled))
            if own:
                style: dict[str, Any] = {"color": f"C{number}", "linestyle": "-" if compiled else "--", "marker": "o"}
                axes.plot(*zip(*own, strict=True), label=f"{method}{', compiled' if compiled else ''}", **style)
    axes.set_xscale("log", base=2)
    axes.set_ylim(bottom=0)


def plans(figures: Row, images: Path) -> list[str]:
    rows = [row for row in figures.get("cases", []) if "planned_bytes" in row]
    head = ("base", "method", "settings", "planned GB", "measured GB", "error", "part")
    result = table(head, [plan_row(row) for row in rows])
    if "gaps" in figures:
        result += [
            "",
            f"With {figures['gaps']:.3f} of a step's bytes for the allocator, as fitted on the first half: the largest ",
        ]
        result[-1] += f"error is {figures['fitted_error']} there and {figures['judged_error']} on the other."
    if rows:
        draw(images / "performance-plans.png", lambda axes: planned(axes, rows))
        result += ["", "![Planned beside measured memory.](images/performance-plans.png)"]
    return result


def plan_row(row: Row) -> tuple[str, ...]:
    known = ("base", "method", "part", "task")
    settings = ", ".join(f"`{n}` {v}" for n, v in row.items() if n not in known and not n.endswith(("_bytes", "_error")))
    task = f"{row['task']['type']}, " if "task" in row else ""
    sizes = (f"{row['planned_bytes'] / 1e9:.2f}", f"{row['measured_bytes'] / 1e9:.2f}")
    return (row["base"], row["method"], task + settings, *sizes, f"{row['planned_error']:+.1%}", row["part"])


def planned(axes: Axes, rows: Sequence[Row]) -> None:
    points = [(row["measured_bytes"] / 1e9, row["planned_bytes"] / 1e9) for row in rows]
    ends = [0.8 * min(map(min, points)), 1.25 * max(map(max, points))]
    axes.plot(ends, ends, color="0.7", label="equal")
    axes.plot(*zip(*points, strict=True), "o", label="a job")
    axes.set(xscale="log", yscale="log", xlabel="measured GB", ylabel="planned GB", title="Memory of twelve jobs")


def service(figures: Row, _: Path) -> list[str]:
    rows = [("`difffit up` is ready", f"{figures['ready_seconds']} s")]
    main_job, pictures, tenants = figures.get("main_job"), figures.get("pictures"), figures.get("tenants")
    if main_job is not None:
        rows.append(("from `POST /jobs` to the first step", f"{main_job['post_to_first_step_seconds']} s"))
        rows.append((f"the main job ({main_job['status']})", f"{main_job['seconds']} s"))
        rows.append(("examples a second in it", str(main_job["samples_per_second"])))
    if main_job is not None and "given_back" in main_job:
        rows.append(("its memory is given back", f"{main_job['given_back']}, after {main_job['given_back_seconds']} s"))
    if pictures is not None:
        for name in ("base_first", "base_again", "adapter_first", "adapter_again"):
            what = name.replace("_", ", ")
            rows.append(
                (f"{pictures['count']} pictures in {pictures['steps']} steps: {what}", f"{pictures[name]['seconds']} s")
            )
    if tenants is not None:
        again = tenants["pictures_while_training"]["adapter_again"]["seconds"]
        rows.append(("the same pictures while a job trains: adapter, again", f"{again} s"))
        rows.append(("jobs of two tenants at once", f"{'overlapped' if tenants['overlapped'] else 'in turn'}"))
    rows += [(f"GPU memory in use: {when}", f"{used} MB") for when, used in figures["memory_mb"].items() if used is not None]
    return table(("what", "figure"), rows)


SECTIONS: dict[str, Callable[[Row, Path], list[str]]] = {"tests": tests, "step": step, "plans": plans, "service": service}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows)]


def draw(path: Path, content: Callable[[Axes], None]) -> None:
    figure, axes = plt.subplots(figsize=SIZE)
    content(axes)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
