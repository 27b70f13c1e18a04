"""Fixtures for all tests: the devices, which a test with `device` runs on one after the other, and a catalog of tiny bases."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import torch

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: the cores are busy with other tests
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # the tests start a hundred processes, which would all compile the project anew


def pytest_configure(config: pytest.Config) -> None:
    """The fixtures of the service, where its packages are: the tests of difffit_core run without them."""
    if find_spec("sqlalchemy") is not None:
        config.pluginmanager.import_plugin("tests.services")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is not None:
        import torch  # here, because tests of the client and the job store need no torch

        if not torch.cuda.is_available():
            pytest.skip("needs a GPU, and PyTorch sees none here")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest, exact_gpu: None) -> "torch.device":
    """The CPU, and where there is one the GPU."""
    import torch

    return torch.device(request.param)


@pytest.fixture
def exact_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's convolutions in whole fp32, where it has it, and added up in a fixed order."""
    import torch

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


@pytest.fixture(scope="session")
def tiny_catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog of one tiny base for each task, whose id is `tiny-` and the task."""
    from tests.tiny_catalog import write_catalog

    return write_catalog(tmp_path_factory.mktemp("catalog"))
