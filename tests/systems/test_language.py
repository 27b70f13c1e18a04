"""A language model through the routes: rows that are too long, and prompts that are asked as they were trained."""

import json
from pathlib import Path
from typing import Any

from sqlalchemy import select

from jobstore.kit.tables import Estimate
from tests.systems.conftest import SMALL, Service
from tests.worker.datasets.layouts.test_texts import CASES
from worker.datasets.check import check_dataset
from worker.estimates.run import run_estimate
from worker.kit.runtime import sessions

TALKS = [{"messages": [{"role": "user", "content": f"{a}?"}, {"role": "assistant", "content": "yes"}] * 2} for a in "abcdefgh"]


def dataset_of(service: Service, data: bytes, name: str) -> str:
    dataset_id = str(service.client.post("/datasets", files={"file": (name, data)}).json()["id"])
    check_dataset(dataset_id)
    return dataset_id


def job_of(dataset_id: str, **hyperparameters: Any) -> dict[str, Any]:
    return {"base_model": "tiny-instruction", "dataset": dataset_id, "hyperparameters": SMALL | hyperparameters}


def measured(service: Service, spec: dict[str, Any]) -> dict[str, Any]:
    """The plan once a worker has computed it."""
    service.client.post("/jobs", params={"dry_run": "true"}, json=spec, headers={"prefer": "wait=0"})
    with sessions()() as session:
        waiting = session.scalars(select(Estimate.id).where(Estimate.status == "queued")).all()
    for estimate_id in waiting:
        run_estimate(estimate_id)
    plan: dict[str, Any] = service.client.post("/jobs", params={"dry_run": "true"}, json=spec).json()
    assert plan["no_estimate"] is None, plan
    return plan


def test_a_row_that_is_too_long_costs_itself_and_not_the_job(service: Service) -> None:
    dataset_id = dataset_of(service, (CASES / "one-long.json").read_bytes(), "one-long.json")
    rows = measured(service, job_of(dataset_id))["estimate"]["rows"]
    assert {name: rows[name] for name in ("total", "kept", "overlong", "unframed")} == {
        "total": 20, "kept": 19, "overlong": 1, "unframed": 0,
    }  # fmt: skip
    job_id = service.client.post("/jobs", json=job_of(dataset_id)).json()["id"]
    service.train()
    assert (service.job(job_id)["status"], service.job(job_id)["error"]) == ("succeeded", None)
    events = service.client.get(f"/jobs/{job_id}/events", params={"limit": 100}).json()["data"]
    (told,) = [event["data"]["message"] for event in events if event["type"] == "warning"]
    assert told.startswith("1 of 20 rows have more than 256 tokens and are left out: ")


def test_a_job_that_may_lose_no_row_is_refused_when_it_is_posted(service: Service) -> None:
    dataset_id = dataset_of(service, (CASES / "one-long.json").read_bytes(), "one-long.json")
    spec = job_of(dataset_id, overlong="fail")
    measured(service, spec)
    answer = service.client.post("/jobs", json=spec)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (422, "row_too_long", "hyperparameters.overlong")
    assert error["message"].startswith("1 of 20 rows have more than 256 tokens, the longest ")
    unmeasured = service.client.post(
        "/jobs", json=job_of(dataset_id, overlong="fail", batch_size=3), headers={"prefer": "wait=0"}
    )
    assert unmeasured.status_code == 202
    service.train()  # which finds it itself
    assert service.job(unmeasured.json()["id"])["error"]["code"] == "row_too_long"


def test_a_conversation_is_one_row_and_its_adapter_is_asked_in_its_frame(service: Service, tiny_catalog: Path) -> None:
    dataset_id = dataset_of(service, json.dumps(TALKS).encode(), "talks.json")
    dataset = service.client.get(f"/datasets/{dataset_id}").json()
    assert (dataset["examples"], dataset["holds"], dataset["frame"]) == (len(TALKS), ["messages"], "chat")
    job_id = service.client.post("/jobs", json=job_of(dataset_id)).json()["id"]
    service.train()
    job = service.job(job_id)
    assert (job["status"], job["task"]) == ("succeeded", {"type": "instruction", "frame": "chat"})
    common = {"adapter": job["adapter"], "seed": 5, "max_tokens": 4, "temperature": 0}
    asked = service.generate(prompts=["a?"], **common)
    assert (asked["parameters"]["frame"], asked["texts"][0]["prompt"]) == ("chat", "a?")
    assert service.generate(messages=[{"role": "user", "content": "a?"}], **common)["texts"] == asked["texts"]
    typed = service.generate(prompts=["### User:\na?\n\n### Assistant:\n"], frame="none", **common)
    assert [typed["texts"][0]["text"], typed["parameters"]["frame"]] == [asked["texts"][0]["text"], "none"]
