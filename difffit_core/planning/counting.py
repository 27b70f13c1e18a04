"""How many parameters a method trains in a model, without weights: `python -m difffit_core.planning.counting MODEL METHOD`."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from difffit_core.errors import DiffFitError, ModelError, SpecError
from difffit_core.families.dit.network import class_embedder, replace_class_table, stored_labels, tie_conditioning
from difffit_core.families.registry import Family, family_of
from difffit_core.methods.config import MethodConfig, named_method
from difffit_core.methods.injection import count_parameters, prepare, trained_parameters
from difffit_core.methods.trained_parameters import Kind

PACKAGE = Path(__file__).parents[1]
ARCHITECTURES = PACKAGE / "families" / "architectures"
BYTES = 4  # of a parameter in an adapter file, which is fp32


@dataclass(frozen=True)
class Group:
    """Parameters of one kind whose names differ only in the numbers of blocks and layers, shown as `*`."""

    kind: Kind
    name: str
    tensors: int
    parameters: int


@dataclass(frozen=True)
class Count:
    """What a method trains in a model; `total` is the base with its class table, without what the method adds."""

    model: str
    family: Family
    method: dict[str, Any]
    classes: int | None
    total: int
    trained: int
    percent: float
    adapter_bytes: int  # of its tensors; the header adds some kilobytes
    kinds: dict[Kind, int]
    groups: list[Group]


def architectures() -> dict[str, Path]:
    """The configs in the package, by the name of the model."""
    found = {path.stem: path for path in sorted(ARCHITECTURES.glob("*.json"))}
    return found | {"emoji-dit": PACKAGE / "bases" / "emoji-dit" / "transformer" / "config.json"}


def count(model: str, method: MethodConfig, classes: int | None = None) -> Count:
    """Count for a packaged architecture, or the `config.json` of a model's folder, with `classes` labels of its own.

    Raises ModelError where there is no such model, SpecError where the method or the classes do not fit it.
    """
    with torch.device("meta"):
        network = build(model)
        if family_of(network) == "dit":
            tie_conditioning(network)
            known = len(stored_labels(config_of(model).parent.parent)) or int(class_embedder(network).num_classes)
            classes = known if classes is None else classes
            if classes < 1:
                raise SpecError(f"A class table has at least one class, not {classes}.", param="classes")
            replace_class_table(network, [str(i) for i in range(known)], [str(i) for i in range(classes)])
        elif classes is not None:
            raise SpecError(f"{model} has no class table; leave the number of classes out.", param="classes")
        total = count_parameters(network)[1]
        preparation = prepare(network, method)
    sizes = {name: parameter.numel() for name, parameter in trained_parameters(network).items()}
    kinds: dict[Kind, int] = {}
    for name, kind in preparation.kinds.items():
        kinds[kind] = kinds.get(kind, 0) + sizes[name]
    trained = sum(sizes.values())
    groups = [Group(kind, name, len(members), sum(sizes[m] for m in members)) for (kind, name), members in preparation.groups()]
    return Count(
        model=model,
        family=preparation.family,
        method=method.model_dump(mode="json"),
        classes=classes,
        total=total,
        trained=trained,
        percent=round(100 * trained / total, 4),
        adapter_bytes=BYTES * trained,
        kinds=kinds,
        groups=groups,
    )


def config_of(model: str) -> Path:
    """The file that says what a model is built of."""
    return architectures().get(model, Path(model, "config.json") if Path(model).is_dir() else Path(model)).absolute()


def build(model: str) -> nn.Module:
    """The model of a config as diffusers or transformers store one, on the current default device."""
    path = config_of(model)
    try:
        config: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        known = ", ".join(architectures())
        raise ModelError(
            f"There is no model {model!r}: neither one of {known}, nor a folder with a config.json.",
            code="unknown_base_model",
            param="model",
        ) from error
    if "_class_name" in config:
        import diffusers

        published_dit = config["_class_name"] == "Transformer2DModel" and config.get("norm_type") == "ada_norm_zero"
        kind = getattr(diffusers, "DiTTransformer2DModel" if published_dit else config["_class_name"], None)
        if kind is not None:
            return kind.from_config(config)  # type: ignore[no-any-return]
    elif config.get("architectures"):
        import transformers

        kind = getattr(transformers, config["architectures"][0], None)
        if kind is not None:
            return kind(kind.config_class.from_dict(config))  # type: ignore[no-any-return]
    raise ModelError(f"{path} is of no model that diffusers or transformers know.", param="model")


def main(words: Sequence[str] | None = None) -> int:
    """Print the count as one line of JSON, or what is wrong as an error in JSON; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help=f"one of {', '.join(architectures())}, or a folder with a config.json")
    parser.add_argument("method", help="a method's type, or its config as JSON")
    parser.add_argument("--classes", type=int, help="how many classes the dataset has")
    arguments = parser.parse_args(words)
    try:
        settings = json.loads(arguments.method) if arguments.method.startswith("{") else {}
        method = named_method(settings.pop("type", arguments.method), settings)
        document = asdict(count(arguments.model, method, arguments.classes))
    except DiffFitError as error:
        document = {"error": error.reason()}
    print(json.dumps(document))  # noqa: T201 (the result)
    return 1 if "error" in document else 0


if __name__ == "__main__":
    sys.exit(main())
