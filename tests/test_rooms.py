"""Where things are: no root folder gathers loose modules, and a noun has one name in the API, the workers and the job store."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOUNS = {"jobs", "datasets", "adapters", "generations", "evaluations", "estimates", "webhooks", "tenants", "uploads"}
OF_ITS_OWN = {"api": {"models"}, "jobstore": {"embedded"}, "worker": set[str]()}  # folders that no other of the three has
COMMANDS = {"api": {"app", "__main__"}, "jobstore": set[str](), "worker": {"app"}, "difffit_core": {"errors"}}


def modules(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.py")} - {"__init__"}


def packages(folder: Path) -> set[str]:
    return {path.parent.name for path in folder.glob("*/__init__.py")}


@pytest.mark.parametrize(("top", "loose"), COMMANDS.items())
def test_what_lies_at_the_root_of_a_package_is_what_starts_it(top: str, loose: set[str]) -> None:
    assert modules(ROOT / top) == loose


@pytest.mark.parametrize("top", OF_ITS_OWN)
def test_a_noun_has_one_folder_under_one_name(top: str) -> None:
    assert packages(ROOT / top) <= NOUNS | {"kit"} | OF_ITS_OWN[top]


@pytest.mark.parametrize("top", COMMANDS)
def test_tests_lie_where_their_code_does(top: str) -> None:
    assert packages(ROOT / "tests" / top) <= packages(ROOT / top) | {"bases"}
