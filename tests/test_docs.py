"""The documentation says what the code does: settings, routes and dependencies are all there, and no link is dead."""

import re
import tomllib
from pathlib import Path

import pytest
from pydantic_core import PydanticUndefined

from api.app import create_app
from difffit_core.spec.catalog import MODELS_DIR, PACKAGED_CATALOG
from jobstore.kit.settings import Settings

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def table_rows(text: str) -> list[list[str]]:
    """The cells of every row of every table in a Markdown text."""
    return [[cell.strip() for cell in line.strip("|\n").split("|")] for line in text.splitlines() if line.startswith("|")]


def documented_settings() -> dict[str, tuple[str, str]]:
    text = (ROOT / "README.md").read_text().partition("## Settings")[2].partition("\n## ")[0]
    return {row[0].strip("`"): (row[1].strip("`"), row[2]) for row in table_rows(text)[2:]}


def settings_of_the_code() -> dict[str, tuple[str, str]]:
    words = {
        PydanticUndefined: "required",
        None: "unset",
        PACKAGED_CATALOG: "the packaged catalog",
        MODELS_DIR: "~/.difffit/models",
    }
    return {
        field.alias or f"DIFFFIT_{name.upper()}": (words.get(field.default, str(field.default)), str(field.description))
        for name, field in Settings.model_fields.items()
    }


def test_the_table_of_settings_is_the_settings_class() -> None:
    assert documented_settings() == settings_of_the_code()


def test_every_route_is_documented_and_no_other() -> None:
    settings = Settings.model_validate(
        {"DATABASE_URL": "postgresql://localhost/docs", "REDIS_URL": "redis://localhost", "storage_url": "file:///nowhere"}
    )
    paths = create_app(settings).openapi()["paths"]
    routes = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    documented = re.findall(r"^\| `([A-Z]+ /[^`]*)`", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    assert sorted(documented) == sorted(routes | {"GET /docs", "GET /openapi.json"})


def test_every_direct_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {"Base": project["dependencies"]} | project["optional-dependencies"]
    sections = (ROOT / "docs" / "dependencies.md").read_text().split("\n## ")[1:]
    documented = {
        re.split(r"[ `]+", section.strip("`"))[0]: re.findall(r"^\| `([^`]+)`", section, re.MULTILINE) for section in sections
    }
    assert documented == {
        group: sorted(re.split(r"[\[>=<~! ]", requirement)[0] for requirement in group_requirements)
        for group, group_requirements in groups.items()
    }


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_no_link_is_dead(document: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []
