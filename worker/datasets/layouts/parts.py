"""Folders called train and test around a dataset's others: the part of the split that their files belong to."""

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

PARTS = {
    "train": "train",
    "training": "train",
    "dev": "validation",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}


def split_folders(names: Iterable[str]) -> dict[str, str]:
    """The part by folder, with a `/` at its end; nothing where the outermost folders are no parts of a split.

    Validation is what is held out where there is no test.
    """
    paths, root = [PurePosixPath(name).parts for name in names], tuple[str, ...]()
    while len(tops := {path[len(root)] for path in paths if len(path) > len(root) + 1}) == 1:
        root = (*root, *tops)
    found = {top: PARTS.get(top.lower(), "") for top in tops}
    if "" in found.values() or len(set(found.values())) < 2 or "train" not in found.values():
        return {}
    held_out = "test" if "test" in found.values() else "validation"
    return {"/".join((*root, top, "")): "test" if part == held_out else part for top, part in sorted(found.items())}


def part_of(name: str, folders: Mapping[str, str]) -> str:
    """The part that a file belongs to; empty where it lies in none of the folders."""
    return next((part for folder, part in folders.items() if name.startswith(folder)), "")
