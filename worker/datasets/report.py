"""The report of a check: what was kept of an upload, what was not and why, and what a person should look at."""

from collections import Counter, defaultdict
from typing import Any

from difffit_core.data.contents import fields_of_all
from worker.datasets.archives.archives import Refusal
from worker.datasets.examples import Example
from worker.datasets.layouts.layout import MAX_LISTED, Layout, some


def make_report(
    files: int, layout: Layout, examples: list[Example], refused: list[Refusal], duplicates: list[dict[str, str]]
) -> dict[str, Any]:
    _warn_of_fields(examples, layout)
    classes = Counter(example.annotation.label for example in examples)
    _warn_of_classes(classes, layout)
    if len(duplicates) > MAX_LISTED:
        layout.warn(
            "unlisted_duplicates", f"{len(duplicates) - MAX_LISTED} more examples are duplicates than the report lists."
        )
    images = [example.picture.image for example in examples if example.picture is not None]
    sizes = sorted(((image.width, image.height) for image in images), key=lambda size: size[0] * size[1])
    return {
        "files": files,
        "kept": len(examples),
        "layout": layout.kind,
        "refused": refused,
        "duplicates": duplicates[:MAX_LISTED],
        "label_conflicts": _label_conflicts(examples),
        "warnings": layout.warnings,
        "classes": dict(sorted(classes.items())),
        "splits": dict(sorted(Counter(e.annotation.split for e in examples if e.annotation.split).items())),
        "sizes": {"smallest": sizes[0], "median": sizes[len(sizes) // 2], "largest": sizes[-1]} if sizes else None,
        "texts": _texts(examples),
        "conditions": sum(example.condition is not None for example in examples),
    }


def _warn_of_classes(classes: Counter[str], layout: Layout) -> None:
    single = sorted(name for name, count in classes.items() if count == 1 and name)
    if single:
        layout.warn("single_image", f"{len(single)} classes have one image, so that none is held out: {some(single)}")
    spellings: dict[str, list[str]] = defaultdict(list)
    for name in sorted(classes):
        spellings[name.casefold().replace("_", " ")].append(name)
    alike = [name for names in spellings.values() if len(names) > 1 for name in names]
    if alike:
        layout.warn(
            "similar_classes", f"These classes differ in spelling alone: {some(alike)}. Rename those that are one class."
        )


def _warn_of_fields(examples: list[Example], layout: Layout) -> None:
    """What only some examples have, no job can use."""
    of_all = fields_of_all(example.fields for example in examples)
    of_any = {name for example in examples for name, value in example.fields.items() if value}
    for name in sorted(of_any.difference(of_all)):
        without = [example.source for example in examples if not example.fields[name]]
        layout.warn(
            f"incomplete_{name}",
            f"{len(without)} of {len(examples)} examples have no {name}, so that no job that needs one can use this "
            f"dataset: {some(without)}",
        )


def _texts(examples: list[Example]) -> dict[str, dict[str, int]]:
    """Of each field of text that any example has: how many have it, and the fewest and most characters."""
    lengths: dict[str, list[int]] = defaultdict(list)
    for example in examples:
        for name, text in example.texts.items():
            if text:
                lengths[name].append(len(text))
    return {name: {"count": len(all), "shortest": min(all), "longest": max(all)} for name, all in sorted(lengths.items())}


def _label_conflicts(examples: list[Example]) -> list[dict[str, list[str]]]:
    """The same picture under several labels: all are kept, somebody should look."""
    by_content: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        if example.picture is not None:
            by_content[example.picture.sha256].append(example)
    return [
        {"files": [e.source for e in same], "labels": [e.annotation.label for e in same]}
        for same in by_content.values()
        if len({e.annotation.label for e in same}) > 1
    ]
