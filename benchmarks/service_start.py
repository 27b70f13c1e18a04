"""How soon is the service ready, how large is its API, and how soon does a job begin? `python -m benchmarks.service_start`."""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from benchmarks.services import resident, running_service
from client import Client
from client.upload import prepare_upload

DATASET = Path(__file__).parent.parent / "examples" / "fluent"
JOBS = 3
PICTURES = 1000  # of 64 x 64 pixels
TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="Print one JSON line")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="difffit-benchmark-") as folder:
        data_dir = Path(folder)
        with running_service(data_dir) as (first_start, _, _):
            pass
        with running_service(data_dir) as (second_start, client, own):
            api = process_of(own, " -m api ")
            found = {
                "first_start_seconds": first_start,
                "second_start_seconds": second_start,
                "api_resident_mb": round(resident(api) / 1e6, 1),
                "api_ready_seconds": api_ready_seconds(api),
                "api_loads_torch": "libtorch" in (Path("/proc") / str(api) / "maps").read_text(),
                **job_start_seconds(client, own),
                **encodings_seconds(client, own, data_dir / "pictures"),
            }
    if arguments.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name:<22} {value}")


def job_start_seconds(client: Client, launcher: int) -> dict[str, list[float]]:
    """From posting a job to an idle worker until two events of its trainer arrive here: `started`, and its first step."""
    with prepare_upload([DATASET]) as prepared:
        dataset = client.wait_dataset(client.upload_dataset(prepared.files)["id"])
    seconds = [seconds_to_events(client, launcher, dataset["id"], seed) for seed in range(JOBS)]
    return {
        "post_to_started_seconds": [found["started"] for found in seconds],
        "post_to_first_step_seconds": [found["progress"] for found in seconds],
    }


def encodings_seconds(client: Client, launcher: int, folder: Path) -> dict[str, float]:
    """From posting a job to its first step, on pictures that nobody has encoded, and then on those that are encoded."""
    for number in range(PICTURES):
        path = folder / f"class {number % 10}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = Image.effect_noise((8, 8), 80).convert("RGB")
        noise.resize((64, 64)).save(path)
    with prepare_upload([folder]) as prepared:
        dataset = client.wait_dataset(client.upload_dataset(prepared.files)["id"])
    fresh, reused = (seconds_to_events(client, launcher, dataset["id"], seed) for seed in range(2))
    assert "encoded" in fresh
    assert "encodings_reused" in reused
    return {"first_step_encoding_seconds": fresh["progress"], "first_step_reusing_seconds": reused["progress"]}


def seconds_to_events(client: Client, launcher: int, dataset_id: str, seed: int) -> dict[str, float]:
    """Run a job of one step on an idle worker: when the first event of each type arrived here, counted from the post."""
    wait_until_idle(launcher)
    settings = {"steps": 1, "batch_size": 1, "sample_steps": 1, "validation_fraction": 0.0}
    posted, seconds = time.monotonic(), dict[str, float]()
    job = client.create_job({"base_model": "emoji-dit", "dataset": dataset_id, "seed": seed, "hyperparameters": settings})
    for event in client.watch_job(job["id"]):
        seconds.setdefault(event["type"], round(time.monotonic() - posted, 2))
    return seconds


def wait_until_idle(launcher: int) -> None:
    """Until the standby trainer is there and has imported what it will need."""
    before = -1.0
    while True:
        spent = sum(cpu_seconds(pid) for pid in descendants(launcher) if "difffit_core.training" in command_of(pid))
        if spent and spent == before:
            return
        before = spent
        time.sleep(0.5)


def api_ready_seconds(api: int) -> float:
    """A second API process beside the first, from its start to its first answer."""
    environ = (Path("/proc") / str(api) / "environ").read_bytes().split(b"\0")
    environment = dict(entry.decode().split("=", 1) for entry in environ if b"=" in entry)
    began = time.monotonic()
    command = [sys.executable, "-m", "api", "--port", "0", "--log-level", "info"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        next(line for line in process.stderr if "Uvicorn running" in line)
        seconds = round(time.monotonic() - began, 2)
        process.send_signal(signal.SIGINT)
        process.stderr.read()
    return seconds


def descendants(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, queue = [], [root]
    while queue:
        queue += (below := children.get(queue.pop(), []))
        found += below
    return found


def process_of(launcher: int, words: str) -> int:
    return next(pid for pid in descendants(launcher) if words in command_of(pid))


def command_of(pid: int) -> str:
    try:
        return (Path("/proc") / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def cpu_seconds(pid: int) -> float:
    fields = (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


if __name__ == "__main__":
    main()
