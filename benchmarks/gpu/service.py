"""The whole service there, through HTTP: the main job, two tenants' jobs in turn, and pictures while one of them trains."""

import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

from benchmarks.gpu.record import Clock, Record, Row
from benchmarks.services import running_service
from client import Client
from client.responses import Generation
from client.upload import prepare_upload

DATASET = Path(__file__).parent.parent.parent / "examples" / "fluent"
BASE = "emoji-dit"
TENANTS = ("first", "second")
STOP_RESERVE = 15.0  # seconds that stopping everything may take
SETTLE_SECONDS = 20.0  # for so long memory is waited for to come back
CONTEXT_MB = 1200  # what a waiting process that has touched the GPU keeps
FULL: Row = {"steps": 500, "batch_size": 32, "sample_steps": 20}
PICTURES, SMALL_PICTURES = {"n": 16, "steps": 20}, {"n": 1, "steps": 1}
SMALL: Row = {"steps": 2, "batch_size": 2, "sample_steps": 1, "validation_fraction": 0.0}


def run(record: Record, small: bool, seconds: float) -> None:
    clock, settings = Clock(seconds - STOP_RESERVE), SMALL if small else FULL
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("asked to end"))  # so that the service is stopped in order
    with tempfile.TemporaryDirectory(prefix="difffit-gpu-service-") as folder:
        data_dir = Path(folder)
        with running_service(data_dir) as (ready, client, _):
            idle = memory_used_mb()
            record.write(ready_seconds=ready, memory_mb={"ready": idle})
            main = trained(client, uploaded(client), settings)
            record.write(main_job=main | given_back(idle))
            record.write(pictures=drawn(client, main["adapter"], **(SMALL_PICTURES if small else PICTURES)))
            record.write(memory_mb=record.figures["memory_mb"] | {"with an engine": memory_used_mb()})
            if not small and clock.left > 2 * main["seconds"]:
                record.write(tenants=in_turn(client, (data_dir / "url").read_text().strip(), main["adapter"], settings))
                record.write(memory_mb=record.figures["memory_mb"] | {"after all jobs": memory_used_mb()})


def uploaded(client: Client) -> str:
    with prepare_upload([DATASET]) as prepared:
        return str(client.wait_dataset(client.upload_dataset(prepared.files)["id"], timeout=120)["id"])


def trained(client: Client, dataset: str, settings: Row, training: Event | None = None) -> Row:
    """Post a job and watch it to its end: when it did what, counted from the post. `training` is set at its first step."""
    posted, seconds, rate = time.monotonic(), dict[str, float](), 0.0
    began = time.time()
    spec = {"base_model": BASE, "dataset": dataset, "method": {"type": "difffit"}, "hyperparameters": settings}
    job = client.create_job(spec)
    for event in client.watch_job(job["id"]):
        seconds.setdefault(event["type"], round(time.monotonic() - posted, 2))
        if event["type"] == "progress":
            rate = event["data"]["samples_per_second"]
            if training is not None:
                training.set()
    job = client.job(job["id"])
    return {
        "status": job["status"],
        "error": job["error"],
        "adapter": job["adapter"],
        "posted_at": round(began, 2),
        "seconds": round(time.monotonic() - posted, 2),
        "post_to_started_seconds": seconds.get("started"),
        "post_to_first_step_seconds": seconds.get("progress"),
        "events": seconds,
        "samples_per_second": rate,
        "losses": job["losses"],
    }


def drawn(client: Client, adapter: str, n: int, steps: int) -> Row:
    """So many pictures of one class by the base and by the adapter, the first ones of each and some more."""
    rows = dict[str, Any]()
    models: dict[str, Row] = {"base": {"base_model": BASE}, "adapter": {"adapter": adapter}}
    for name, model in models.items():
        for turn in ("first", "again"):
            began = time.monotonic()
            generation: Generation = client.generate(["food-fruit"], n=n, steps=steps, seed=1, **model)
            rows[f"{name}_{turn}"] = {"status": generation["status"], "seconds": round(time.monotonic() - began, 2)}
    return {"count": n, "steps": steps, **rows}


def in_turn(operator: Client, url: str, adapter: str, settings: Row) -> Row:
    """A job of each of two tenants at once on one worker, and pictures for a third while the first of them trains."""
    training = Event()
    with ThreadPoolExecutor(len(TENANTS)) as pool:
        jobs = [pool.submit(_of_tenant, url, operator.create_tenant(name), settings, training) for name in TENANTS]
        training.wait(120)
        pictures = drawn(operator, adapter, **PICTURES)
        rows = [job.result() for job in jobs]
    spans = sorted((row["posted_at"] + row["events"]["started"], row["posted_at"] + row["seconds"]) for row in rows)
    return {"jobs": rows, "pictures_while_training": pictures, "overlapped": spans[1][0] < spans[0][1] - 1.0}


def _of_tenant(url: str, tenant: Any, settings: Row, training: Event) -> Row:
    with Client(url, tenant["key"]["key"]) as client:
        return trained(client, uploaded(client), settings, training)


def memory_used_mb() -> int | None:
    """Of the whole GPU, all processes together; None without one."""
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        return int(subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.split()[0])
    except (OSError, ValueError, IndexError, subprocess.SubprocessError):
        return None


def given_back(before: int | None) -> Row:
    """How soon a job's memory is free again."""
    if before is None:
        return {}
    began, used = time.monotonic(), memory_used_mb() or 0
    while used > before + CONTEXT_MB and time.monotonic() - began < SETTLE_SECONDS:
        time.sleep(0.2)
        used = memory_used_mb() or 0
    back = used <= before + CONTEXT_MB
    return {"given_back": back, "given_back_seconds": round(time.monotonic() - began, 1), "memory_after_mb": used}


def summary(figures: Row) -> list[str]:
    main, pictures, tenants = figures.get("main_job"), figures.get("pictures"), figures.get("tenants")
    lines = [f"ready after {figures['ready_seconds']} s; GPU memory in MB {figures['memory_mb']}"]
    if main is not None:
        first = f"first step {main['post_to_first_step_seconds']} s after the post"
        lines.append(f"main job {main['status']}, {first}, {main['seconds']} s, {main['samples_per_second']} samples/s")
        lines.append(f"memory given back: {main.get('given_back')} in {main.get('given_back_seconds')} s")
    if pictures is not None:
        lines.append(f"{pictures['count']} pictures: {pictures}")
    if tenants is not None:
        lines.append(f"two tenants: {[job['status'] for job in tenants['jobs']]}, overlapped {tenants['overlapped']}")
        lines.append(f"pictures meanwhile: {tenants['pictures_while_training']}")
    return lines
