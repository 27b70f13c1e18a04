"""The whole main job on real images: start the service, upload a dataset, train an adapter, draw with it, stop the service.

Writes `demo/contact-sheet.png`; the last line on stdout is one JSON object with the figures, everything else goes to stderr.
"""

import argparse
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from PIL import Image

from client import Client
from client.console import err, note
from client.progress import TrainingView, transfer_bar
from client.responses import Generation, Job
from client.upload import prepare_upload
from difffit_core.errors import DiffFitError
from examples.contact_sheet import Group, contact_sheet

BASE = "emoji-dit"
DATASET = Path(__file__).parent / "fluent"
COLUMNS = 3  # pictures of each class in each group of the sheet
STOP_SECONDS = 120  # a trainer may have to finish its step and write a checkpoint
# The demo has a service of its own, whatever the shell is set up for.
ELSEWHERE = ("DATABASE_URL", "REDIS_URL")


def main() -> None:
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops everything in order, as Ctrl-C does
    began = time.monotonic()
    data_dir = Path(tempfile.mkdtemp(prefix="difffit-demo-"))
    try:
        with running_service(data_dir) as client:
            figures = main_job(client, arguments)
        leftovers = processes_of(data_dir)
        if leftovers:
            raise DiffFitError(f"Processes were left behind: {', '.join(leftovers)}", code="processes_left")
    except (DiffFitError, OSError, KeyboardInterrupt) as error:
        what = "interrupted" if isinstance(error, KeyboardInterrupt) else error
        note(f"[red]The demo failed:[/] {what}\nThe logs are in {data_dir / 'logs'}")
        sys.exit(1)
    shutil.rmtree(data_dir)
    note(f"[green]done[/] in {time.monotonic() - began:.0f} seconds; look at [bold]{figures['contact_sheet']}[/]")
    print(json.dumps(figures))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("demo"))
    return parser.parse_args()


@contextmanager
def running_service(data_dir: Path) -> Iterator[Client]:
    """`difffit up` on a data directory of its own and any free port; stopped with SIGINT as a person does with Ctrl-C."""
    kept = {k: v for k, v in os.environ.items() if k not in ELSEWHERE and not k.startswith("DIFFFIT_")}
    command = [sys.executable, "-m", "client.cli", "up", "--data-dir", str(data_dir), "--port", "0", "--json"]
    note("starting the service")
    # In a session of its own, Ctrl-C reaches this program only, which then stops the service in order.
    launcher = subprocess.Popen(command, env=kept, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert launcher.stdout is not None
        ready = launcher.stdout.readline()
        if not ready:
            raise DiffFitError(f"`difffit up` ended with {launcher.wait()} before it was ready.", code="service_failed")
        server = json.loads(ready)
        note(f"the service is ready at {server['url']}")
        with Client(server["url"], server["api_key"]) as client:
            yield client
    finally:
        stop(launcher)
    if launcher.returncode != 0:
        raise DiffFitError(f"`difffit up` ended with {launcher.returncode} when it was stopped.", code="service_failed")


def stop(launcher: subprocess.Popen[str]) -> None:
    launcher.send_signal(signal.SIGINT)
    try:
        launcher.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        launcher.kill()
        launcher.wait()


def main_job(client: Client, arguments: argparse.Namespace) -> dict[str, Any]:
    """Upload, train, draw, download; returns the figures of the last line."""
    dataset_id, classes = upload(client)
    job = train(client, dataset_id, arguments)
    note("drawing the same classes and seeds with the base and with the adapter")
    output: Path = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    request: dict[str, Any] = {"labels": classes, "n": COLUMNS, "seed": arguments.seed}
    base = save_images(client, client.generate(base_model=BASE, **request), output / "base")
    half = save_images(client, client.generate(adapter=job["adapter"], adapter_strength=0.5, **request), output / "half")
    adapted = save_images(client, client.generate(adapter=job["adapter"], **request), output / "adapted")
    with transfer_bar(err, "downloading the adapter") as moved:
        adapter_bytes = client.download_adapter(str(job["adapter"]), output / "adapter.safetensors", moved)
    sheet = output / "contact-sheet.png"
    draw_sheet(job, classes, base, half, adapted).save(sheet, optimize=True)
    return {
        "status": job["status"],
        "steps": job["progress"]["step"],
        "trained_parameters": job["trained_parameters"],
        "total_parameters": job["total_parameters"],
        "adapter_bytes": adapter_bytes,
        "validation_loss_base": job["losses"]["validation_base"],
        "validation_loss_adapted": job["losses"]["validation"],
        "train_seconds": seconds_between(job["started_at"], job["finished_at"]),
        "images": [str(path) for paths in adapted.values() for path in paths],
        "contact_sheet": str(sheet),
    }


def upload(client: Client) -> tuple[str, list[str]]:
    with prepare_upload([DATASET]) as prepared, transfer_bar(err, f"uploading {DATASET.name}") as moved:
        dataset = client.upload_dataset(prepared.files, name=DATASET.name, progress=moved)
    dataset = client.wait_dataset(dataset["id"], timeout=120)
    if dataset["error"] or not dataset["classes"]:
        raise DiffFitError(f"The dataset was refused: {dataset['error']}", code="dataset_failed")
    note(f"the dataset has {dataset['examples']} images of {len(dataset['classes'])} classes")
    return dataset["id"], sorted(dataset["classes"])


def train(client: Client, dataset_id: str, arguments: argparse.Namespace) -> Job:
    """Train an adapter and check that it fits the held-out images better than the base does."""
    hyperparameters = {"steps": arguments.steps, "batch_size": arguments.batch_size}
    spec = {"base_model": BASE, "dataset": dataset_id, "method": {"type": "difffit"}, "hyperparameters": hyperparameters}
    created = client.create_job(spec | {"seed": arguments.seed, "name": "demo"})
    with TrainingView(err, created["task"]["type"]) as view:
        for event in client.watch_job(created["id"]):
            view.show(event)
    job = client.job(created["id"])
    if job["status"] != "succeeded":
        raise DiffFitError(f"The job is {job['status']}: {job['error']}", code="job_failed")
    base, adapted = job["losses"]["validation_base"], job["losses"]["validation"]
    if base is None or adapted is None or adapted >= base:
        raise DiffFitError(f"Training did not help: validation loss {base} before, {adapted} after.", code="no_improvement")
    return job


def save_images(client: Client, generation: Generation, folder: Path) -> dict[str, list[Path]]:
    """Write every picture of a generation; returns the paths by class."""
    if generation["status"] != "succeeded":
        raise DiffFitError(f"The generation is {generation['status']}: {generation['error']}", code="generation_failed")
    folder.mkdir(exist_ok=True)
    paths: dict[str, list[Path]] = {}
    for image in generation["images"]:
        path = folder / f"{image['label']}-{image['seed']}.png"
        path.write_bytes(client.image_bytes(image["url"]))
        paths.setdefault(image["label"], []).append(path)
    return paths


def draw_sheet(
    job: Job, classes: list[str], base: dict[str, list[Path]], half: dict[str, list[Path]], adapted: dict[str, list[Path]]
) -> Image.Image:
    """The same classes and seeds from left to right: what the adapter does shows from one group to the next."""
    trained, total = job["trained_parameters"] or 0, job["total_parameters"] or 1
    before, after = job["losses"]["validation_base"], job["losses"]["validation"]
    real = {name: spread(sorted((DATASET / name).glob("*.png")), COLUMNS) for name in classes}
    groups = [
        Group("Real images", load(real)),
        Group(f"{BASE} as it is", load(base)),
        Group("Adapter at half strength", load(half)),
        Group("Adapter at full strength", load(adapted)),
    ]
    steps = f"{job['progress']['step']} steps on {sum(1 for _ in DATASET.rglob('*.png'))} images"
    subtitle = f"{steps}  ·  {trained:,} of {total:,} parameters trained ({trained / total:.1%})"
    return contact_sheet("DiffFit", f"{subtitle}  ·  validation loss {before:.3f} to {after:.3f}", classes, groups)


def spread(paths: list[Path], count: int) -> list[Path]:
    """`count` of the paths, evenly from the first to the last."""
    return [paths[i * (len(paths) - 1) // (count - 1)] for i in range(count)]


def load(paths: dict[str, list[Path]]) -> dict[str, list[Image.Image]]:
    return {name: [Image.open(io.BytesIO(path.read_bytes())) for path in row] for name, row in paths.items()}


def seconds_between(start: str | None, end: str | None) -> float:
    if start is None or end is None:
        return 0.0
    return round((datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds(), 1)


def processes_of(data_dir: Path) -> list[str]:
    """Running processes whose command or environment names the demo's data directory (Linux; elsewhere none are seen)."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        command, environment = readable(process / "cmdline"), readable(process / "environ")
        if str(data_dir) in command + environment and int(process.name) != os.getpid():
            found.append(f"{process.name} {command.strip()}")
    return found


def readable(path: Path) -> str:
    """A file of /proc as text; empty where the process has ended or belongs to somebody else."""
    try:
        return path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


if __name__ == "__main__":
    main()
