"""Drives the whole main job through `docker compose` and checks what the images promise; run.sh starts it."""

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.api import Client
from client.responses import Job

ROOT = Path(__file__).resolve().parents[2]
DATASET = ROOT / "examples" / "fluent"
OURS = ("api", "worker-default", "worker-webhooks", "worker-train", "worker-generate")
SECRETS = ("POSTGRES_PASSWORD", "DIFFFIT_API_KEY")
STEPS, CHECKPOINT_EVERY = 40, 10
KILLED = 137  # exit status of a container that had to be killed


@dataclass(frozen=True)
class Compose:
    """One compose project with its own file of secrets; the caller's environment and .env play no part."""

    project: str
    env_file: Path

    def run(self, *arguments: str, check: bool = True) -> int:
        """Run `docker compose …` with everything it says on stderr; returns its exit status."""
        return subprocess.run(**self._call(arguments), check=check, stdout=sys.stderr).returncode

    def output(self, *arguments: str) -> str:
        answer: str = subprocess.run(**self._call(arguments), check=True, stdout=subprocess.PIPE).stdout
        return answer.strip()

    def _call(self, arguments: tuple[str, ...]) -> dict[str, Any]:
        ignored = {*SECRETS, "COMPOSE_FILE", "COMPOSE_PROFILES", "COMPOSE_ENV_FILES"}
        environment = {name: value for name, value in os.environ.items() if name not in ignored}
        command = ["docker", "compose", "--project-name", self.project, "--env-file", str(self.env_file), *arguments]
        return {"args": command, "cwd": ROOT, "env": environment, "text": True}


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the project is removed then, too
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="difffit-compose-") as folder:
        scratch = Path(folder)
        check_refusal_without_secrets(scratch)
        key = secrets.token_hex(24)
        env_file = scratch / "secrets.env"
        env_file.write_text(f"POSTGRES_PASSWORD={secrets.token_hex(24)}\nDIFFFIT_API_KEY={key}\nDIFFFIT_PORT=0\n")
        compose = Compose(f"difffit-test-{secrets.token_hex(4)}", env_file)
        with running(compose) as seconds:
            check_containers(compose)
            with Client(f"http://{compose.output('port', 'api', '8000')}", key) as client:
                figures = drive(compose, client, scratch)
    result = {"status": "succeeded", **seconds, **figures, "seconds": round(time.monotonic() - began, 1)}
    sys.stdout.write(json.dumps(result) + "\n")


def check_refusal_without_secrets(scratch: Path) -> None:
    """Each secret that is missing or empty stops compose with a message that names it and says how to make one."""
    for missing in SECRETS:
        env_file = scratch / "incomplete.env"
        env_file.write_text("".join(f"{name}={'' if name == missing else 'x'}\n" for name in SECRETS))
        command = ["docker", "compose", "--env-file", str(env_file), "config", "--quiet"]
        environment = {name: value for name, value in os.environ.items() if name not in SECRETS}
        refused = subprocess.run(command, cwd=ROOT, env=environment, check=False, text=True, capture_output=True)
        expect(refused.returncode != 0, f"compose must refuse to start without {missing}")
        expect(missing in refused.stderr and "openssl rand" in refused.stderr, f"unclear refusal: {refused.stderr}")


@contextmanager
def running(compose: Compose) -> Iterator[dict[str, float]]:
    """Build the images and start every service; remove containers, networks and volumes in any case."""
    try:
        began = time.monotonic()
        compose.run("build")
        built = time.monotonic()
        compose.run("up", "--detach", "--wait", "--wait-timeout", "600")
        yield {"build_seconds": round(built - began, 1), "ready_seconds": round(time.monotonic() - built, 1)}
    except BaseException:
        compose.run("ps", "--all", check=False)
        compose.run("logs", "--no-color", "--tail", "60", check=False)
        raise
    finally:
        # A busy engine may give up on a container; what is left is removed at the next try.
        any(compose.run("down", "--volumes", "--timeout", "20", check=False) == 0 for _ in range(3))


def check_containers(compose: Compose) -> None:
    """No service runs as root, nothing of ours can write to its own image, and only the workers that compute have torch."""
    for service in (*OURS, "postgres", "redis"):
        status = compose.output("exec", "--no-TTY", service, "cat", "/proc/1/status")
        ids = re.search(r"^Uid:\s+(\d+)", status, re.MULTILINE)
        expect(ids is not None and ids[1] != "0", f"{service} runs as root")
    for service in OURS:
        read_only = compose.run("exec", "--no-TTY", service, "touch", "/opt/venv/x", check=False)
        expect(read_only != 0, f"{service} can write to its own image")
    torch = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is None)"
    for service, has_torch in {"api": False, "worker-default": False, "worker-train": True, "worker-generate": True}.items():
        found = compose.run("exec", "--no-TTY", service, "python", "-c", torch, check=False) == 0
        expect(found == has_torch, f"{service}: torch is {'installed' if found else 'missing'}")


def drive(compose: Compose, client: Client, scratch: Path) -> dict[str, Any]:
    """The main job: upload, train with a stop in the middle, generate, download."""
    dataset = client.upload_dataset([pack(DATASET, scratch / "fluent.zip")], name="fluent")
    dataset = client.wait_dataset(dataset["id"], timeout=120)
    expect(dataset["status"] == "ready", f"the dataset was refused: {dataset['error']}")
    job, training = train_through_a_restart(compose, client, dataset["id"])
    adapter = str(job["adapter"])
    labels = sorted(dataset["classes"] or {})[:2]
    pictures = make_pictures(client, adapter, labels)
    expect(all(picture.startswith(b"\x89PNG\r\n") for picture in pictures), "the pictures are no PNG")
    expect(pictures == make_pictures(client, adapter, labels), "the same request and seed gave other pictures")
    size = client.download_adapter(job["id"], scratch / "adapter.safetensors")
    content = (scratch / "adapter.safetensors").read_bytes()
    header = json.loads(content[8:][: int.from_bytes(content[:8], "little")])
    expect("__metadata__" in header and len(content) == size, "the adapter is no safetensors file")
    return {"dataset_images": dataset["examples"], **training, "adapter_bytes": size, "generated": len(pictures)}


def pack(folder: Path, archive: Path) -> Path:
    """The class folders of `folder` as a zip."""
    with zipfile.ZipFile(archive, "w") as packed:
        for picture in sorted(folder.glob("*/*.png")):
            packed.write(picture, picture.relative_to(folder))
    return archive


def train_through_a_restart(compose: Compose, client: Client, dataset: str) -> tuple[Job, dict[str, Any]]:
    """Train; stop the worker at the first checkpoint and start it again: the job must wait, go on from there and succeed."""
    hyperparameters = {"steps": STEPS, "checkpoint_every": CHECKPOINT_EVERY, "validate_every": STEPS, "sample_every": STEPS}
    hyperparameters |= {"batch_size": 8, "sample_steps": 5}
    spec = {"base_model": "emoji-dit", "dataset": dataset, "hyperparameters": hyperparameters, "seed": 1}
    job = client.create_job(spec)
    reached = sequence = 0
    for event in client.watch_job(job["id"]):
        if event["type"] == "checkpoint":
            reached, sequence = int(event["data"]["step"]), event["sequence"]
            break
    expect(0 < reached < STEPS, f"the job ended without a checkpoint: {client.job(job['id'])['error']}")
    stop_seconds = stop_trainer(compose)
    status = client.job(job["id"])["status"]
    expect(status == "queued", f"after its worker stopped the job is {status}")
    compose.run("start", "worker-train")
    resumed = [
        event["data"]["resumed_from"] for event in client.watch_job(job["id"], after=sequence) if event["type"] == "started"
    ]
    job = client.job(job["id"])
    expect(job["status"] == "succeeded", f"the job is {job['status']}: {job['error']}")
    expect(len(resumed) == 1 and (resumed[0] or 0) >= reached, f"the job was at step {reached} and went on from {resumed}")
    return job, {
        "steps": job["progress"]["step"],
        "stop_seconds": stop_seconds,
        "resumed_from": resumed[0],
        "trained_parameters": job["trained_parameters"],
        "validation_loss_base": job["losses"]["validation_base"],
        "validation_loss_adapted": job["losses"]["validation"],
    }


def stop_trainer(compose: Compose) -> float:
    """Stop the train worker as an operator would; it must go by itself, on SIGTERM, and not be killed."""
    began = time.monotonic()
    compose.run("stop", "worker-train")
    status = int(json.loads(compose.output("ps", "--all", "--format", "json", "worker-train").splitlines()[0])["ExitCode"])
    expect(status != KILLED, "worker-train did not stop on SIGTERM and was killed")
    return round(time.monotonic() - began, 1)


def make_pictures(client: Client, adapter: str, labels: list[str]) -> list[bytes]:
    generation = client.generate(labels, adapter=adapter, n=1, steps=10, seed=7)
    expect(generation["status"] == "succeeded", f"the generation is {generation['status']}: {generation['error']}")
    return [client.image_bytes(image["url"]) for image in generation["images"]]


def expect(condition: bool, failure: str) -> None:
    if not condition:
        raise SystemExit(f"compose-test: {failure}")


if __name__ == "__main__":
    main()
