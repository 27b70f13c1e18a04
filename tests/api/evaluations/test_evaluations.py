"""Requests for evaluations: how they are resolved, what is refused, and what they keep from being deleted."""

from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session, sessionmaker

from api.app import create_app
from difffit_core.spec.catalog import load_catalog
from jobstore.kit.objects import ObjectStore, evaluation_prefix
from jobstore.kit.settings import Settings
from jobstore.kit.tables import Evaluation, Job
from tests.api.conftest import Rows, bearer
from tests.api.kit.test_errors import assert_error

BASE = "emoji-dit"
FIGURE = {
    "metric": "fd-mobilenet",
    "value": 12.5,
    "std": None,
    "samples": 4,
    "reference_images": 2,
    "reference": {"dataset": "5" * 64, "split": "0.1"},
    "resolution": 64,
    "extractor": "mobilenet 0123456789ab",
}


@pytest.fixture
def request_body(client: TestClient, rows: Rows) -> dict[str, Any]:
    """Of an adapter on the dataset it was trained on."""
    dataset = rows.dataset()
    return {
        "adapter": rows.adapter(rows.job(client, "succeeded", dataset.id)).id,
        "dataset": dataset.id,
        "metrics": ["fd-mobilenet"],
    }


def test_a_request_is_resolved_queued_and_listed(
    client: TestClient, request_body: dict[str, Any], sessions: sessionmaker[Session]
) -> None:
    answer = client.post("/evaluations", json=request_body | {"samples": 4, "metrics": ["fd-mobilenet"] * 2})
    assert answer.status_code == 202, answer.text
    view = answer.json()
    assert answer.headers["location"] == f"/evaluations/{view['id']}"
    assert (view["status"], view["adapter"], view["base_model"]) == ("queued", request_body["adapter"], BASE)
    assert (view["progress"], view["figures"], view["error"]) == ({"samples": 0, "total_samples": 4}, None, None)
    defaults = load_catalog()[BASE].defaults
    assert view["parameters"] == {
        "metrics": ["fd-mobilenet"],
        "samples": 4,
        "steps": defaults.sample_steps,
        "guidance_scale": defaults.guidance_scale,
        "seed": 0,
        "scheduler": defaults.scheduler,
        "validation_fraction": 0.1,
    }
    with sessions.begin() as session:
        row = session.get_one(Evaluation, view["id"])
        row.status, row.samples_done, row.figures = "succeeded", 4, [FIGURE]
    assert client.get(answer.headers["location"]).json()["figures"] == [FIGURE]
    second = client.post("/evaluations", json=request_body).json()["id"]
    page = client.get("/evaluations?limit=1").json()
    assert ([e["id"] for e in page["data"]], page["has_more"]) == ([second], True)
    assert [e["id"] for e in client.get(f"/evaluations?after={second}").json()["data"]] == [view["id"]]


def test_what_an_adapters_job_held_out_is_the_reference(
    client: TestClient, request_body: dict[str, Any], rows: Rows, sessions: sessionmaker[Session]
) -> None:
    with sessions.begin() as session:
        job = session.query(Job).one()
        changed = job.training_spec["hyperparameters"] | {"validation_fraction": 0.3}
        job.training_spec = job.training_spec | {"hyperparameters": changed}

    def fraction(**change: Any) -> float:
        answer = client.post("/evaluations", json=request_body | change)
        return float(answer.json()["parameters"]["validation_fraction"])

    assert fraction() == 0.3
    assert fraction(validation_fraction=0.2) == 0.2
    assert fraction(dataset=rows.dataset(sha256="6" * 64).id) == 0.1


def test_a_repeated_request_is_carried_out_once(client: TestClient, request_body: dict[str, Any]) -> None:
    headers = {"idempotency-key": "evaluate-once"}
    first, again = (client.post("/evaluations", json=request_body, headers=headers) for _ in range(2))
    assert (again.status_code, again.json(), again.headers["idempotency-replayed"]) == (202, first.json(), "true")
    assert len(client.get("/evaluations").json()["data"]) == 1


def test_wrong_requests_name_their_field(client: TestClient, request_body: dict[str, Any], rows: Rows) -> None:
    birds, captioned = rows.dataset(classes={"bird": 3, "cat": 3}), rows.dataset(holds=["caption", "file"])
    wrong: list[tuple[dict[str, Any], str, str]] = [
        ({"metrics": []}, "invalid_value", "metrics"),
        ({"metrics": ["psnr"]}, "invalid_value", "metrics.0"),
        ({"metrics": ["fid"]}, "feature_weights_missing", "metrics"),
        ({"metrics": ["clip-score"]}, "no_captions", "metrics"),
        ({"samples": 3}, "invalid_value", "samples"),
        ({"samples": 50_001}, "invalid_value", "samples"),
        ({"validation_fraction": 0.6}, "invalid_value", "validation_fraction"),
        ({"base_model": BASE}, "one_model_only", "adapter"),
        ({"dataset": birds.id}, "unknown_label", "dataset"),
        ({"dataset": captioned.id}, "no_label", "dataset"),
        ({"metric": "fid"}, "unknown_field", "metric"),
    ]
    for change, code, param in wrong:
        assert assert_error(client.post("/evaluations", json=request_body | change), 422, code)["param"] == param
    for change, code, param in (
        ({"dataset": "ds_0"}, "dataset_not_found", "dataset"),
        ({"adapter": "ad_0"}, "adapter_not_found", "adapter"),
    ):
        assert assert_error(client.post("/evaluations", json=request_body | change), 404, code)["param"] == param
    checking = rows.dataset("checking").id
    assert_error(client.post("/evaluations", json=request_body | {"dataset": checking}), 409, "dataset_not_ready")
    assert client.get("/evaluations").json()["data"] == []


def test_metrics_of_the_operators_weights_can_be_had(
    settings: Settings, tenant: object, api_key: str, request_body: dict[str, Any], rows: Rows
) -> None:
    configured = settings.model_copy(update={"inception_weights": "/weights/inception.pth"})
    with TestClient(create_app(configured), headers=bearer(api_key)) as client:
        assert client.post("/evaluations", json=request_body | {"metrics": ["fid", "kid"]}).status_code == 202
        job = {"base_model": BASE, "dataset": request_body["dataset"]}
        evaluated = {"evaluate_every": 10, "evaluation_metrics": ["fid"]}
        assert client.post("/jobs", json=job | {"hyperparameters": evaluated}).status_code == 202
        missing = {"hyperparameters": evaluated | {"evaluation_metrics": []}}
        assert_error(client.post("/jobs", json=job | missing), 422, "invalid_value")


def test_a_job_with_a_metric_that_cannot_be_had_is_refused(client: TestClient, rows: Rows) -> None:
    wanted = {"evaluate_every": 10, "evaluation_metrics": ["fd-mobilenet", "precision-recall"]}
    job = {"base_model": BASE, "dataset": rows.dataset().id, "hyperparameters": wanted}
    error = assert_error(client.post("/jobs", json=job), 422, "feature_weights_missing")
    assert error["param"] == "hyperparameters.evaluation_metrics"
    assert "DIFFFIT_INCEPTION_WEIGHTS" in error["message"]
    job["hyperparameters"] = {"evaluate_every": 10}
    assert_error(client.post("/jobs", json=job), 422, "invalid_spec")


def test_what_an_evaluation_uses_is_not_deleted_before_its_end(
    client: TestClient, request_body: dict[str, Any], store: ObjectStore
) -> None:
    evaluation_id = client.post("/evaluations", json=request_body).json()["id"]
    for path, code in (
        (f"/datasets/{request_body['dataset']}", "dataset_in_use"),
        (f"/adapters/{request_body['adapter']}", "adapter_in_use"),
    ):
        error = assert_error(client.delete(path), 409, code)
        assert evaluation_id in error["message"]
    kept = f"{evaluation_prefix(evaluation_id)}portion-000000.safetensors"
    store.put_bytes(kept, b"features")
    assert client.delete(f"/evaluations/{evaluation_id}").status_code == 204
    assert not store.exists(kept)
    assert_error(client.get(f"/evaluations/{evaluation_id}"), 404, "evaluation_not_found")
    assert client.delete(f"/datasets/{request_body['dataset']}").status_code == 204
    assert client.delete(f"/adapters/{request_body['adapter']}").status_code == 204
