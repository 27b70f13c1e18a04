"""Tiny bases."""

import pytest

from difffit_core.spec.catalog import BaseModelEntry
from tests.difffit_core.spec_dirs import TASKS, write_base
from tests.published import as_published
from tests.tiny_models import write_tiny_base


@pytest.fixture(scope="session")
def tiny_bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, BaseModelEntry]:
    """One for each case."""
    return {task: write_base(tmp_path_factory.mktemp(task), task) for task in TASKS}


@pytest.fixture(scope="session")
def published_bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, BaseModelEntry]:
    """The same, in the files that repositories on the Hub have."""
    bases = {task: write_base(tmp_path_factory.mktemp(f"published-{task}"), task) for task in TASKS}
    for base in bases.values():
        as_published(base.path, base.family)
    return bases


@pytest.fixture(scope="session")
def tiny_base(tiny_bases: dict[str, BaseModelEntry]) -> BaseModelEntry:
    """A DiT."""
    return tiny_bases["class-conditional"]


@pytest.fixture(scope="session")
def tiny_learned_base(tmp_path_factory: pytest.TempPathFactory) -> BaseModelEntry:
    """Like the published DiT: predicts noise and a variance."""
    return write_tiny_base(tmp_path_factory.mktemp("tiny-learned"), learned_variance=True, prediction="epsilon")


@pytest.fixture
def in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on hardware that does not multiply bf16: what differs by rounding alone differs very little."""
    monkeypatch.setattr("difffit_core.runtime.devices.multiplies_bf16", lambda device: False)


@pytest.fixture(params=["fp32", "bf16"])
def precision(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What training multiplies in, whatever the hardware is best at."""
    monkeypatch.setattr("difffit_core.runtime.devices.multiplies_bf16", lambda device: request.param == "bf16")
    return str(request.param)
