"""Every task through the routes that users use: upload, train, pause, look, generate, download."""

import base64
import io
import json
import zipfile
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from PIL import Image

from tests.difffit_core.spec_dirs import CASES
from tests.systems.conftest import Service, png
from tests.waiting import wait_for
from worker.generations.engine import PNG_KEY

# Goes through a pause, and to download, as well: of the others tests/difffit_core holds that they resume and export.
PAUSED = "text-to-image"
TRAINING_SECONDS = 120.0  # until a step is done, on a machine that is busy


@pytest.mark.parametrize("case", CASES)
def test_it_trains_and_its_adapter_is_used(service: Service, case: str) -> None:
    job_id = service.post_job(case, steps=60, validation_fraction=0.2)
    if case == PAUSED:
        train_through_a_pause(service, job_id)
    else:
        service.train()
    job, task = service.job(job_id), str(CASES[case][1]["type"])
    assert (job["status"], job["error"], job["task"]["type"]) == ("succeeded", None, task)
    assert job["progress"]["step"] == job["progress"]["total_steps"] == 60
    assert 0 < job["trained_parameters"] < job["total_parameters"]
    assert job["losses"]["validation"] < job["losses"]["validation_base"]
    check_samples(service, job_id, task)
    check_generation(service, job["adapter"], case, task)
    if case == PAUSED:
        check_downloads(service, job["adapter"])


def check_downloads(service: Service, adapter_id: str) -> None:
    for file_format, member in (("merged", "config.json"), ("peft", "adapter_config.json")):
        with zipfile.ZipFile(io.BytesIO(service.export(adapter_id, file_format))) as archive:
            assert any(name.endswith(member) for name in archive.namelist())


def train_through_a_pause(service: Service, job_id: str) -> None:
    def begun_or_failed() -> bool:
        job = service.job(job_id)
        return bool(job["progress"]["step"] > 0 or job["status"] == "failed")

    def pause() -> None:
        wait_for(begun_or_failed, TRAINING_SECONDS)
        service.client.post(f"/jobs/{job_id}/pause")

    with ThreadPoolExecutor(1) as pool:
        pausing = pool.submit(pause)
        service.train()
        pausing.result()  # what it raised is this test's failure
    if service.job(job_id)["status"] == "paused":  # it may have been quicker
        assert service.client.post(f"/jobs/{job_id}/resume").json()["status"] == "queued"
        service.train()


def check_samples(service: Service, job_id: str, task: str) -> None:
    newest, *_, oldest = service.client.get(f"/jobs/{job_id}/samples").json()["data"]
    assert (newest["step"], oldest["step"]) == (60, 0)
    shown = service.client.get(newest["url"])
    assert shown.headers["content-type"] == newest["media_type"]
    if task == "instruction":
        assert "Add" in shown.text
    else:
        with Image.open(io.BytesIO(shown.content)) as picture:
            assert picture.width >= 16


def check_generation(service: Service, adapter_id: str, case: str, task: str) -> None:
    request = request_for(task)
    made, again = (service.generate(adapter=adapter_id, **request) for _ in range(2))
    if task == "instruction":
        assert [text["prompt"] for text in made["texts"]] == request["prompts"]
        assert made["texts"] == again["texts"]
        assert made["parameters"]["frame"] == "alpaca"
        return
    pictures = [[service.client.get(image["url"]).content for image in each["images"]] for each in (made, again)]
    assert pictures[0] == pictures[1]
    assert [image["label"] for image in made["images"]] == request.get("prompts", ["sunset", "forest"])
    if task != "class-conditional":
        (wide,) = service.generate(adapter=adapter_id, **request | {"n": 1, "width": 24, "height": 16})["images"][:1]
        with Image.open(io.BytesIO(service.client.get(wide["url"]).content)) as picture:
            written = json.loads(picture.text[PNG_KEY])  # type: ignore[attr-defined]
            assert picture.size == (wide["width"], wide["height"]) == (written["width"], written["height"]) == (24, 16)
    if case not in {"class-conditional", "controlnet-copy"}:  # whose bases draw other things, in another way
        base = service.generate(base_model=f"tiny-{case}", **request)
        assert service.client.get(base["images"][0]["url"]).content != pictures[0][0]


def request_for(task: str) -> dict[str, Any]:
    if task == "class-conditional":
        return {"labels": ["sunset", 0], "seed": 5}
    if task == "instruction":
        return {"prompts": ["Add 1 and 2."], "seed": 5, "max_tokens": 8, "temperature": 0}
    steered = {"condition_image": base64.b64encode(png(Image.new("RGB", (16, 16), "gray"))).decode()}
    return {"prompts": ["a sunset, calm\nand wide"], "seed": 5} | (steered if task == "controlnet" else {})
