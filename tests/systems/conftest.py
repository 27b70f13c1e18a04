"""The service with a tiny base for each task, whose parts a test calls in the order in which they would be woken."""

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from api.app import create_app
from jobstore.kit.settings import Settings, get_settings
from jobstore.kit.tables import Tenant
from tests.difffit_core.spec_dirs import CASES
from worker.adapters.exports import run_export
from worker.datasets.check import check_dataset
from worker.generations.engine import Engine
from worker.jobs.supervisor import run_next
from worker.jobs.trainer import TRAINER, Standby
from worker.kit import runtime

COLOURS = {"sunset": (250, 120, 40), "forest": (20, 120, 40)}
PER_COLOUR = 5
SMALL = {"steps": 6, "batch_size": 4, "sample_steps": 2}


class Service:
    """What users do, and the workers' part of it."""

    def __init__(self, client: TestClient) -> None:
        self.client = client
        self.engine = Engine()

    def dataset(self, task: str) -> str:
        name, data = upload_for(task)
        posted = self.client.post("/datasets", files={"file": (name, data)})
        assert posted.status_code == 202, posted.text
        dataset_id = str(posted.json()["id"])
        check_dataset(dataset_id)
        checked = self.client.get(f"/datasets/{dataset_id}").json()
        assert checked["status"] == "ready", checked
        return dataset_id

    def post_job(self, case: str, **hyperparameters: Any) -> str:
        """A job of one of `spec_dirs.CASES`."""
        _, task = CASES[case]
        spec = {"base_model": f"tiny-{case}", "dataset": self.dataset(str(task["type"])), "task": task, "seed": 3}
        posted = self.client.post("/jobs", json=spec | {"hyperparameters": SMALL | hyperparameters})
        assert posted.status_code == 202, posted.text
        return str(posted.json()["id"])

    def train(self) -> None:
        """One turn of a worker with the real trainer."""
        standby = Standby(TRAINER)
        try:
            assert run_next(standby)
        finally:
            standby.close()

    def job(self, job_id: str) -> dict[str, Any]:
        answer: dict[str, Any] = self.client.get(f"/jobs/{job_id}").json()
        return answer

    def generate(self, **request: Any) -> dict[str, Any]:
        posted = self.client.post("/generate", json=request)
        assert posted.status_code == 202, posted.text
        self.engine.run(posted.json()["id"])
        made: dict[str, Any] = self.client.get(posted.headers["location"]).json()
        assert (made["status"], made["error"]) == ("succeeded", None)
        return made

    def export(self, adapter_id: str, file_format: str) -> bytes:
        route = f"/adapters/{adapter_id}/download?format={file_format}"
        asked = self.client.get(route)
        assert asked.status_code == 202, asked.text
        run_export(asked.json()["id"])
        made = self.client.get(route)
        assert made.status_code == 200, made.text
        return made.content


def upload_for(task: str) -> tuple[str, bytes]:
    """A small real dataset as a user would send it: plain-coloured pictures with what the task wants, or sums."""
    if task == "instruction":
        rows = [{"instruction": f"Add {a} and {b}.", "input": "", "output": str(a + b)} for a in range(4) for b in range(3)]
        return "sums.json", json.dumps(rows).encode()
    random, files = np.random.default_rng(0), dict[str, bytes]()
    rows = []
    for colour, value in COLOURS.items():
        for number in range(PER_COLOUR):
            pixels = np.clip(np.array(value) + random.integers(-20, 20, (16, 16, 3)), 0, 255).astype(np.uint8)
            picture, edges = Image.fromarray(pixels), Image.fromarray(pixels).convert("L").convert("RGB")
            name = f"{colour}-{number}.png"
            match task:
                case "class-conditional":
                    files[f"{colour}/{name}"] = png(picture)
                case "text-to-image":
                    files[name], files[f"{colour}-{number}.txt"] = png(picture), f"a {colour}, no {number}".encode()
                case "controlnet":
                    files[f"images/{name}"], files[f"conditions/{name}"] = png(picture), png(edges)
                    rows.append({"image": f"images/{name}", "conditioning_image": f"conditions/{name}", "text": f"a {colour}"})
                case _:
                    if colour == "sunset":
                        files[name] = png(picture)
    if rows:
        files["metadata.jsonl"] = "".join(json.dumps(row) + "\n" for row in rows).encode()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        for name, data in files.items():
            packed.writestr(name, data)
    return "pictures.zip", archive.getvalue()


def png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def service(
    settings: Settings, tenant: Tenant, api_key: str, tiny_catalog: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Service]:
    monkeypatch.setenv("DIFFFIT_MODELS", str(tiny_catalog))
    monkeypatch.setenv("DIFFFIT_HEARTBEAT_SECONDS", "0.1")
    get_settings.cache_clear()
    headers = {"authorization": f"Bearer {api_key}"}
    with TestClient(create_app(get_settings()), headers=headers) as client:
        yield Service(client)
    runtime.engine().dispose()
    for cached in (runtime.engine, runtime.sessions, runtime.objects):
        cached.cache_clear()
