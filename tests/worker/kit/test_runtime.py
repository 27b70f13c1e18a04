"""What the processes of a worker share, and what they do not hand on."""

import pytest

from worker.kit.runtime import child_environment


def test_children_get_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("DATABASE_URL", "REDIS_URL", "DIFFFIT_API_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL")
    for name in (*names, "PGPASSWORD", "HF_TOKEN", "TORCH_HUB_TOKEN", "SOMETHING_NEW"):
        monkeypatch.setenv(name, "hidden")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    environment = child_environment()
    assert environment["OMP_NUM_THREADS"] == "1"
    assert "hidden" not in environment.values()
