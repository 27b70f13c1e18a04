"""What users of each system get wrong: refused before any compute where it can be, and with the field and what to do."""

import io
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.odd_pictures import ODD
from tests.systems.conftest import SMALL, Service
from worker.datasets.check import check_dataset

DREAMBOOTH: dict[str, Any] = {"type": "dreambooth", "subject": "dog"}
# (base model, what the dataset was made for, the task, code, field)
REFUSED: list[tuple[str, str, dict[str, Any] | None, str, str]] = [
    ("text-to-image", "class-conditional", None, "no_caption", "dataset"),
    ("text-to-image", "dreambooth", None, "no_caption", "dataset"),
    ("text-to-image", "instruction", None, "no_file", "dataset"),
    ("controlnet", "text-to-image", None, "no_condition", "dataset"),
    ("class-conditional", "text-to-image", None, "no_label", "dataset"),
    ("class-conditional", "instruction", None, "no_file", "dataset"),
    ("instruction", "text-to-image", None, "no_messages", "dataset"),
    ("class-conditional", "class-conditional", DREAMBOOTH, "wrong_family", "task.type"),
    ("text-to-image-pixart", "dreambooth", DREAMBOOTH, "wrong_family", "task.type"),
    ("instruction", "instruction", {"type": "text-to-image"}, "wrong_family", "task.type"),
    ("text-to-image", "dreambooth", {"type": "text-to-image", "caption_with": "blip"}, "no_captioner", "task.caption_with"),
    ("text-to-image", "dreambooth", {"type": "text-to-image", "caption_with": "me"}, "invalid_value", "task.caption_with"),
    ("dreambooth", "dreambooth", {"type": "dreambooth"}, "missing_field", "task.subject"),
    (
        "dreambooth",
        "dreambooth",
        {"type": "dreambooth", "subject": "dog", "identifier": "a b"},
        "invalid_value",
        "task.identifier",
    ),
    (
        "dreambooth",
        "dreambooth",
        {"type": "dreambooth", "subject": "dog", "prior_images": -1},
        "invalid_value",
        "task.prior_images",
    ),
    ("dreambooth", "dreambooth", {"type": "dreamboth"}, "invalid_value", "task.type"),
]


def test_a_job_that_cannot_be_trained_is_refused_with_its_field(service: Service) -> None:
    datasets = {made_for: service.dataset(made_for) for made_for in {row[1] for row in REFUSED}}
    for base, made_for, task, code, param in REFUSED:
        spec = {"base_model": f"tiny-{base}", "dataset": datasets[made_for]} | ({} if task is None else {"task": task})
        answer = service.client.post("/jobs", json=spec)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (422, code, param), spec
    resolution = {
        "base_model": "tiny-text-to-image",
        "dataset": datasets["text-to-image"],
        "hyperparameters": {"resolution": 15},
    }
    error = service.client.post("/jobs", json=resolution).json()["error"]
    assert error["param"] == "hyperparameters.resolution"


def test_a_base_that_lacks_a_file_is_refused_before_any_compute(service: Service, tiny_catalog: Path) -> None:
    dataset = service.dataset("text-to-image")
    for name in ("unet/diffusion_pytorch_model.safetensors", "text_encoder/config.json", "scheduler/scheduler_config.json"):
        file = tiny_catalog.parent / "text-to-image" / name
        file.rename(file.with_suffix(".away"))
        try:
            answer = service.client.post("/jobs", json={"base_model": "tiny-text-to-image", "dataset": dataset})
        finally:
            file.with_suffix(".away").rename(file)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (422, "base_model_missing", "base_model")
        assert f"{Path(name).parent}/" in error["message"]


def test_odd_pictures_are_trained_on_and_what_is_lost_of_them_is_told(service: Service) -> None:
    """Of every mode and format, with captions of several lines that are longer than the tiny text encoder reads."""
    upload = io.BytesIO()
    with zipfile.ZipFile(upload, "w") as archive:
        for number, (make, _) in enumerate(ODD.values()):
            archive.writestr(f"{number}.PNG", make())
            archive.writestr(f"{number}.txt", f"no {number}, in grey,\r\nand more".encode("utf-8-sig"))
    dataset_id = service.client.post("/datasets", files={"file": ("odd.zip", upload.getvalue())}).json()["id"]
    check_dataset(dataset_id)
    report = service.client.get(f"/datasets/{dataset_id}").json()["report"]
    assert (report["kept"], report["refused"]) == (len(ODD), [])
    spec = {"base_model": "tiny-text-to-image", "dataset": dataset_id, "hyperparameters": SMALL}
    job_id = service.client.post("/jobs", json=spec).json()["id"]
    service.train()
    assert service.job(job_id)["status"] == "succeeded"
    events = service.client.get(f"/jobs/{job_id}/events", params={"limit": 100}).json()["data"]
    told = [event["data"]["message"] for event in events if event["type"] == "warning"]
    assert [message.partition(" are ")[0] for message in told] == [
        *(f"{len(ODD)} of {len(ODD)} {what}" for what in ("pictures", "captions"))
    ]
    assert "0.PNG" in told[0]


@pytest.mark.parametrize("identifier", ["a", "<|endoftext|>"])
def test_a_word_that_the_tokenizer_has_already_is_refused_at_once(service: Service, identifier: str) -> None:
    spec = {"base_model": "tiny-dreambooth", "dataset": service.dataset("dreambooth"), "hyperparameters": {"batch_size": 2}}
    answer = service.client.post("/jobs", json=spec | {"task": DREAMBOOTH | {"identifier": identifier}})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (422, "token_exists", "task.identifier")
