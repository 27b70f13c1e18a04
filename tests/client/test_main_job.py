"""The whole main job through the command, against a running service: upload, train, watch, draw, download."""

import json
import os
import signal
import zipfile
from pathlib import Path

import httpx
import pytest
from PIL import Image

from client.api import Client
from client.errors import ApiError
from client.responses import Job
from client.upload import prepare_upload
from tests.client.conftest import Command, Service

FLUENT = Path(__file__).parents[2] / "examples" / "fluent"
QUICK = {"batch_size": 4, "validation_fraction": 0.25, "sample_steps": 2, "validate_every": 1000, "sample_every": 1000}


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight real pictures of two classes, and a file that is no picture."""
    folder = tmp_path_factory.mktemp("upload") / "pets"
    for name in ("animal-bird", "animal-mammal"):
        (folder / name).mkdir(parents=True)
        for path in sorted((FLUENT / name).glob("*.png"))[:4]:
            (folder / name / path.name).write_bytes(path.read_bytes())
    (folder / "animal-bird" / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture(scope="session")
def dataset_id(service: Service, pictures: Path) -> str:
    with Client(service.server.url, service.server.api_key) as client, prepare_upload([pictures]) as upload:
        return client.wait_dataset(client.upload_dataset(upload.files, name="pets")["id"], timeout=60)["id"]


@pytest.fixture(scope="session")
def job(service: Service, dataset_id: str) -> Job:
    """A job that has succeeded."""
    spec = {
        "base_model": "emoji-dit",
        "dataset": dataset_id,
        "hyperparameters": {"steps": 2, **QUICK},
        "seed": 3,
        "name": "quick",
    }
    with Client(service.server.url, service.server.api_key) as client:
        created = client.create_job(spec)
        for _ in client.watch_job(created["id"]):
            pass
        ended = client.job(created["id"])
    assert ended["status"] == "succeeded", ended["error"]
    return ended


@pytest.mark.usefixtures("at_service")
def test_an_upload_shows_what_was_kept_and_what_was_refused(difffit: Command, pictures: Path) -> None:
    result = difffit("datasets", "upload", pictures, "--json")
    assert result.exit_code == 0
    dataset = result.json()
    assert (dataset["name"], dataset["status"], dataset["examples"]) == ("pets", "ready", 8)
    assert [refused["file"] for refused in dataset["report"]["refused"]] == ["animal-bird/notes.txt"]
    shown = difffit("datasets", "show", dataset["id"])
    assert "notes.txt" in shown.stdout
    assert dataset["id"] in difffit("datasets", "list").stdout
    assert difffit("datasets", "list", "--limit", 1, "--json").json()["data"][0]["id"] == dataset["id"]


@pytest.mark.usefixtures("at_service")
def test_loose_images_are_one_class(difffit: Command, pictures: Path) -> None:
    files = sorted((pictures / "animal-bird").glob("*.png"))
    result = difffit("datasets", "upload", *files, "--label", "bird", "--json")
    assert result.json()["classes"] == {"bird": 4}


@pytest.mark.usefixtures("at_service")
def test_an_upload_without_usable_images_is_1(difffit: Command, tmp_path: Path) -> None:
    (tmp_path / "empty.zip").write_bytes(b"this is no zip")
    result = difffit("datasets", "upload", tmp_path / "empty.zip", "--json")
    assert result.exit_code == 1
    assert result.json()["status"] == "failed"


@pytest.mark.usefixtures("at_service")
def test_a_job_is_watched_shown_and_listed(difffit: Command, job: Job) -> None:
    watched = difffit("jobs", "watch", job["id"], "--json")
    assert watched.exit_code == 0
    assert watched.json()["adapter"] == job["adapter"]
    assert "training 2/2" in watched.stderr
    assert "validation loss of the untouched base" in watched.stderr
    assert str(job["adapter"]) in difffit("jobs", "show", job["id"]).stdout
    assert "quick" in difffit("jobs", "list").stdout


@pytest.mark.usefixtures("at_service")
def test_a_dry_run_resolves_the_settings_and_starts_nothing(difffit: Command, dataset_id: str) -> None:
    before = difffit("jobs", "list", "--json").json()
    words = ("jobs", "create", "--dataset", dataset_id, "--set", "steps=7", "--dry-run")
    answer = difffit(*words, "--json").json()
    plan, estimate = answer["plan"], answer["estimate"]
    assert plan["hyperparameters"]["steps"] == 7
    assert estimate["memory"]["total"] > estimate["memory"]["frozen_weights"] > 0, answer["no_estimate"]
    shown = difffit(*words).stdout
    assert f"{estimate['trained_parameters']:,} of {estimate['total_parameters']:,}" in shown
    assert "micro-batch" in shown
    assert plan["hyperparameters"]["learning_rate"] == pytest.approx(1e-3)
    assert difffit("jobs", "list", "--json").json() == before


@pytest.mark.usefixtures("at_service")
@pytest.mark.parametrize("value", ["fast", "NaN", "-1", "0"])
def test_a_refused_setting_is_4_and_names_the_field(difffit: Command, dataset_id: str, value: str) -> None:
    result = difffit("jobs", "create", "--dataset", dataset_id, "--set", f"learning_rate={value}", "--json")
    assert result.exit_code == 4
    assert result.json()["error"]["param"] == "hyperparameters.learning_rate"
    assert "hyperparameters.learning_rate" in result.stderr


@pytest.mark.usefixtures("at_service")
def test_a_task_with_its_settings_is_passed_on(difffit: Command, dataset_id: str) -> None:
    words = ["jobs", "create", "--dataset", dataset_id, "--task", "dreambooth", "--task-set", "subject=dog", "--json"]
    refused = difffit(*words).json()["error"]
    assert (refused["code"], refused["param"]) == ("wrong_family", "task.type")
    assert difffit("jobs", "create", "--dataset", dataset_id, "--task-set", "subject=dog").exit_code == 2
    planned = difffit("jobs", "create", "--dataset", dataset_id, "--task", "class-conditional", "--dry-run", "--json")
    assert planned.json()["plan"]["task"] == {"type": "class-conditional"}


@pytest.mark.usefixtures("at_service")
def test_a_wrong_key_is_4(difffit: Command) -> None:
    result = difffit("--api-key", "wrong", "jobs", "list", "--json")
    assert result.exit_code == 4
    assert result.json()["error"]["status"] == 401


@pytest.mark.usefixtures("at_service")
def test_the_same_seed_draws_the_same_files(difffit: Command, job: Job, tmp_path: Path) -> None:
    words = ["generate", "--adapter", job["adapter"], "--label", "animal-bird", "--label", "1", "--steps", 2, "--seed", 5]
    first = difffit(*words, "--size", "64x64", "--out", tmp_path / "first", "--json")
    second = difffit(*words, "--out", tmp_path / "second", "--json")
    assert first.exit_code == second.exit_code == 0
    files = [[Path(name) for name in result.json()["files"]] for result in (first, second)]
    assert [path.name for path in files[0]] == ["animal-bird-5.png", "animal-mammal-6.png"]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]
    with Image.open(files[0][0]) as picture:
        assert picture.size == (64, 64)


@pytest.mark.usefixtures("at_service")
def test_a_job_is_evaluated_while_it_trains(difffit: Command, service: Service, dataset_id: str) -> None:
    evaluated = {"evaluate_every": 1, "evaluation_samples": 4, "evaluation_metrics": json.dumps(["fd-mobilenet"])}
    settings = [("--set", f"{name}={value}") for name, value in ({"steps": 2} | QUICK | evaluated).items()]
    words = [word for pair in settings for word in pair]
    result = difffit("jobs", "create", "--dataset", dataset_id, *words, "--watch", "--json")
    assert result.exit_code == 0, result.stderr
    assert "step 1: fd-mobilenet" in result.stderr
    key = {"authorization": f"Bearer {service.server.api_key}"}
    metrics = httpx.get(f"{service.server.url}/jobs/{result.json()['id']}/metrics", headers=key).json()["data"]
    curve = {point["step"]: point["figures"] for point in metrics if "figures" in point}
    assert list(curve) == [1, 2]
    assert [(figure["samples"], figure["reference_images"]) for figure in curve[2]] == [(4, 2)]


@pytest.mark.usefixtures("at_service")
def test_an_adapter_is_evaluated(difffit: Command, job: Job, dataset_id: str) -> None:
    words = ["--dataset", dataset_id, "--metric", "fd-mobilenet", "--samples", 4, "--steps", 1]
    result = difffit("evaluate", "--adapter", job["adapter"], *words, "--json")
    assert result.exit_code == 0, result.stderr
    evaluation = result.json()
    assert (evaluation["status"], evaluation["progress"]) == ("succeeded", {"samples": 4, "total_samples": 4})
    assert evaluation["figures"][0]["reference"]["split"] == "0.25"
    assert "fd-mobilenet" in difffit("evaluations", "show", evaluation["id"]).stdout
    assert evaluation["id"] in difffit("evaluations", "list").stdout
    assert difffit("evaluations", "delete", evaluation["id"]).exit_code == 0
    assert difffit("evaluations", "list", "--json").json()["data"] == []
    assert difffit("evaluate", *words).exit_code == 2
    refused = difffit("evaluate", "--base", "emoji-dit", "--dataset", dataset_id, "--metric", "fid", "--json")
    assert (refused.exit_code, refused.json()["error"]["code"]) == (4, "feature_weights_missing")


@pytest.mark.usefixtures("at_service")
def test_a_size_that_the_model_does_not_make_is_4(difffit: Command, job: Job) -> None:
    result = difffit("generate", "--adapter", job["adapter"], "--label", "1", "--size", "96x64", "--json")
    assert (result.exit_code, result.json()["error"]["code"], result.json()["error"]["param"]) == (4, "wrong_size", "width")


@pytest.mark.usefixtures("at_service")
def test_an_unknown_label_is_4(difffit: Command, job: Job) -> None:
    result = difffit("generate", "--adapter", job["adapter"], "--label", "dragon", "--json")
    assert result.exit_code == 4
    assert "dragon" in result.json()["error"]["message"]


@pytest.mark.usefixtures("at_service")
@pytest.mark.parametrize("by", ["adapter", "id"])
def test_an_adapter_is_downloaded_whole_by_its_id_or_its_jobs(difffit: Command, job: Job, tmp_path: Path, by: str) -> None:
    target = tmp_path / "new folder" / "a.safetensors"
    result = difffit("adapters", "download", job[by], "--out", target, "--json")  # type: ignore[literal-required]
    assert result.json() == {"file": str(target), "bytes": target.stat().st_size}
    assert [path.name for path in target.parent.iterdir()] == ["a.safetensors"]


@pytest.mark.usefixtures("at_service")
def test_an_adapter_is_downloaded_as_a_folder_for_peft(difffit: Command, job: Job, tmp_path: Path) -> None:
    result = difffit("adapters", "download", job["adapter"], "--format", "peft", "--out", tmp_path, "--json")
    target = tmp_path / f"{job['adapter']}.peft.zip"
    assert result.json() == {"file": str(target), "bytes": target.stat().st_size}
    with zipfile.ZipFile(target) as archive:
        assert set(archive.namelist()) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
        assert json.loads(archive.read("adapter_config.json"))["peft_type"] == "LORA"


def test_a_refused_download_leaves_no_file(client: Client, tmp_path: Path) -> None:
    with pytest.raises(ApiError) as caught:
        client.download_adapter("ad_absent", tmp_path / "a.safetensors")
    assert (caught.value.status, caught.value.request_id is not None) == (404, True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("at_service")
def test_models_are_listed(difffit: Command) -> None:
    assert "emoji-dit" in difffit("models", "list").stdout
    assert difffit("models", "list", "--json").json()["data"][0]["image_size"] == 64


@pytest.mark.usefixtures("at_service")
def test_watching_survives_a_killed_api_and_a_cancelled_job_is_1(
    difffit: Command, client: Client, service: Service, dataset_id: str
) -> None:
    spec = {"base_model": "emoji-dit", "dataset": dataset_id, "hyperparameters": {"steps": 1_000_000, **QUICK}}
    created = client.create_job(spec)
    sequences, killed, cancelled = [], False, False
    for event in client.watch_job(created["id"]):
        sequences.append(event["sequence"])
        if event["type"] == "progress" and not killed:
            killed = True
            os.kill(api_process(service.data_dir), signal.SIGKILL)
        elif event["type"] == "progress" and not cancelled and answers(service):  # the killed one had sent a few more
            cancelled = client.cancel_job(created["id"])["status"] == "cancelling"
    assert sequences == list(range(1, len(sequences) + 1))
    watched = difffit("jobs", "watch", created["id"], "--json")
    assert watched.exit_code == 1
    assert watched.json()["status"] == "cancelled"
    assert difffit("jobs", "cancel", created["id"]).exit_code == 4


def answers(service: Service) -> bool:
    """Whether the API is there: a killed one is not, until the launcher has started it again."""
    try:
        return httpx.get(f"{service.server.url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def api_process(data_dir: Path) -> int:
    """The process id of the service's API."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command, environment = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
        except OSError:
            continue
        if b"\0-m\0api\0" in command and os.fsencode(data_dir) in environment:
            return int(process.name)
    raise AssertionError("no API process")


@pytest.mark.usefixtures("at_service")
def test_keys_are_made_rotated_and_revoked(difffit: Command) -> None:
    key = difffit("keys", "create", "ci", "--scope", "read", "--expires-in-days", 7, "--json").json()
    assert difffit("--api-key", key["key"], "jobs", "list").exit_code == 0
    assert difffit("--api-key", key["key"], "keys", "list", "--json").json()["error"]["code"] == "scope_missing"
    shown = difffit("keys", "rotate", key["id"])
    assert "difffit_" in shown.stdout
    listed = difffit("keys", "list", "--json").json()["data"]
    assert [k["name"] for k in listed[:2]] == ["ci", "ci"]
    assert difffit("keys", "revoke", listed[0]["id"]).exit_code == 0
    assert "revoked" in difffit("keys", "list").stdout
    assert difffit("--api-key", shown.stdout.split()[-1], "jobs", "list", "--json").json()["error"]["code"] == "key_revoked"


@pytest.mark.usefixtures("at_service")
def test_another_tenant_sees_none_of_this(difffit: Command, job: Job) -> None:
    tenant = difffit("tenants", "create", "neighbours", "--json").json()
    assert "neighbours" in difffit("tenants", "list").stdout
    theirs = ["--api-key", tenant["key"]["key"]]
    assert difffit(*theirs, "jobs", "list", "--json").json() == {"data": [], "has_more": False}
    assert difffit(*theirs, "jobs", "show", job["id"], "--json").json()["error"]["code"] == "job_not_found"
    assert difffit(*theirs, "tenants", "list", "--json").json()["error"]["code"] == "operator_only"
