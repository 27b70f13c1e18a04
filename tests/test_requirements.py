"""What is installed: every version is pinned and has its hashes, and the images take nothing else."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def pinned() -> list[str]:
    """`name==version`, in the file's order."""
    return [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]


def test_every_direct_dependency_is_pinned_to_a_version_that_it_allows() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in pinned())}
    for text in (*project["dependencies"], *(text for group in project["optional-dependencies"].values() for text in group)):
        requirement = Requirement(text)
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), text


def test_every_pinned_version_has_its_hashes() -> None:
    entries = re.split(r"\n(?=\w)", (ROOT / "hashes.txt").read_text().strip())
    assert sorted(entry.split()[0] for entry in entries) == sorted(pinned())
    for entry in entries:
        assert re.fullmatch(r"\S+==\S+( \\\n    --hash=sha256:[0-9a-f]{64})+", entry), entry


def test_the_images_install_by_hash_alone() -> None:
    """What is not, comes from the stage before it."""
    text = (ROOT / "Dockerfile").read_text()
    installs = re.findall(r"pip install [^\n\\]*", text)
    assert len(installs) > 5
    assert [line for line in installs if "--require-hashes" not in line and "--no-index" not in line] == []
    assert "PIP_ONLY_BINARY=:all:" in text
    assert "pip wheel --no-deps --no-build-isolation" in text
    torch = next(line for line in pinned() if line.startswith("torch=="))
    assert f"# torch-{torch.removeprefix('torch==')}+cpu-" in text
