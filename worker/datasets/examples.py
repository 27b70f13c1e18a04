"""The examples of an upload: its pictures, decoded, with what the layout says of them, or its conversations."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from difffit_core.data.contents import example_sha256
from difffit_core.errors import DatasetError
from difffit_core.spec.conversations import Message, is_learned
from worker.datasets.archives.archives import Refusal, UnpackedFile, refusal
from worker.datasets.layouts.layout import Annotation, Layout, some
from worker.datasets.other_files import hint
from worker.kit.image_pool import CheckedImage, ImagePool, RefusedImage, Request

Answers = dict[str, CheckedImage | RefusedImage]  # by file name


@dataclass(frozen=True)
class Picture:
    """A usable image: the PNG that jobs get, the hash of the file that it was, and what that was called."""

    name: str
    path: Path
    sha256: str
    image: CheckedImage


@dataclass(frozen=True)
class Example:
    """What a job can train on; `source` is the picture's file, or the file and row of a text."""

    source: str
    annotation: Annotation
    picture: Picture | None = None
    condition: Picture | None = None
    messages: list[Message] = field(default_factory=list)

    @property
    def texts(self) -> dict[str, str]:
        """What it says: its caption, or its answers and what they are to; empty ones too."""
        learned = [message["content"] for message in self.messages if is_learned(message)]
        told = [f"{m['content']}{m.get('input', '')}" for m in self.messages if not is_learned(m)]
        return {"caption": self.annotation.caption, "prompt": "".join(told), "answer": "".join(learned)}

    @property
    def fields(self) -> dict[str, Any]:
        """Its fields in the index but for the names of the files there, for which those in the upload stand here."""
        pictures = {"file": self.picture, "condition": self.condition}
        names = {field: "" if picture is None else picture.name for field, picture in pictures.items()}
        return names | {"label": self.annotation.label, "caption": self.annotation.caption, "messages": self.messages}

    @property
    def sha256(self) -> str:
        pictures = {"file": self.picture, "condition": self.condition}
        digests = {name: picture.sha256 for name, picture in pictures.items() if picture is not None}
        return example_sha256(**digests, caption=self.annotation.caption, messages=self.messages)


def make_examples(
    files: list[UnpackedFile], layout: Layout, folder: Path, pool: ImagePool, most_bytes: int, keep_alive: Callable[[], None]
) -> tuple[list[Example], list[Refusal]]:
    """Decode the pictures among `files` and pair them; warnings go to the layout.

    Their PNGs are written into `folder`; they may have `most_bytes` together, or DatasetError (`dataset_too_large`) is raised.
    """
    answers: Answers = {}
    pictures: dict[str, Picture] = {}
    plain = [folder / f"plain-{number:06d}.png" for number in range(len(files))]
    requests = (Request(f.path, p, f.name in layout.label_maps) for f, p in zip(files, plain, strict=True))
    for file, path, answer in zip(files, plain, pool.check(requests), strict=True):
        keep_alive()
        answers[file.name] = answer
        file.path.unlink()  # nobody opens what was sent again
        if isinstance(answer, CheckedImage):
            most_bytes -= path.stat().st_size
            if most_bytes < 0:
                raise _too_large()
            pictures[file.name] = _picture(file, path, answer, file.name in layout.label_maps)
    examples, refused = (
        [Example(text.source, Annotation(), messages=text.messages) for text in layout.texts],
        [],
    )
    for file in files:
        example = _example(file.name, answers, pictures, layout)
        if isinstance(example, Example):
            examples.append(example)
        elif example is not None:
            refused.append(example)
    _warn_of_pictures(examples, layout)
    return examples, refused


def _too_large() -> DatasetError:
    return DatasetError(
        "The pictures are larger, as they are kept, than twice what a dataset may unpack to. Send fewer or smaller ones.",
        code="dataset_too_large",
        param="file",
    )


def _picture(file: UnpackedFile, plain: Path, image: CheckedImage, label_map: bool) -> Picture:
    if not label_map:
        return Picture(file.name, plain, file.sha256, image)
    with plain.open("rb") as content:  # the same label map is another picture in other colours
        return Picture(file.name, plain, hashlib.file_digest(content, "sha256").hexdigest(), image)


def _example(name: str, answers: Answers, pictures: dict[str, Picture], layout: Layout) -> Example | Refusal | None:
    """The example of a file, or why it has none; nothing where the file is the usable condition of another."""
    answer, said = answers[name], layout.annotations.get(name)
    if isinstance(answer, RefusedImage):
        advice = hint(name) if answer.code == "not_an_image" else None
        return refusal(name, answer.code, advice or answer.message)
    if said is None:
        return None if name in layout.conditions and name not in layout.refusals else layout.refusals[name]
    if not said.condition:
        return Example(name, said, pictures[name])
    condition = pictures.get(said.condition)
    if condition is None:
        return refusal(name, "unusable_condition", f"Its condition {said.condition} is refused; see there why.")
    if not same_shape(answer, condition.image):
        return refusal(
            name,
            "condition_shape",
            f"Its condition {said.condition} has {condition.image.width} x {condition.image.height} pixels and it has "
            f"{answer.width} x {answer.height}, another aspect ratio, so they do not lie on each other. "
            "Export the condition in the picture's size.",
        )
    return Example(name, said, pictures[name], condition)


def same_shape(one: CheckedImage, other: CheckedImage) -> bool:
    """Whether one may be the other in another size, to a pixel that was rounded."""
    height, width = one.height * other.width / one.width, one.width * other.height / one.height
    return abs(height - other.height) <= 1 or abs(width - other.width) <= 1


def _warn_of_pictures(examples: list[Example], layout: Layout) -> None:
    animated = [e.source for e in examples if e.picture is not None and e.picture.image.animated]
    if animated:
        layout.warn("animated", f"{len(animated)} pictures have several frames, of which the first is used: {some(animated)}")
    repaired = [e.source for e in examples if e.picture is not None and e.picture.image.repaired]
    if repaired:
        layout.warn(
            "repaired",
            f"{len(repaired)} pictures lack their last bytes and are kept as viewers show them: {some(repaired)}. "
            "Export them again to be sure.",
        )
    resized = [e.source for e in examples if e.picture and e.condition and _size(e.picture) != _size(e.condition)]
    if resized:
        layout.warn(
            "condition_size",
            f"{len(resized)} conditions have another size than their picture, and will be scaled to it: {some(resized)}",
        )


def _size(picture: Picture) -> tuple[int, int]:
    return picture.image.width, picture.image.height


def without_duplicates(examples: list[Example]) -> tuple[list[Example], list[dict[str, str]]]:
    """Each content once per class, and the sources that were left out for it."""
    first: dict[tuple[str, str], Example] = {}
    duplicates = []
    for example in examples:
        kept = first.setdefault((example.annotation.label, example.sha256), example)
        if kept is not example:
            duplicates.append({"file": example.source, "same_as": kept.source})
    return list(first.values()), duplicates
