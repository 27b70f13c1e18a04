"""`difffit params`: how many parameters a method trains in a model, counted on this machine without its weights."""

from typing import Annotated, Any

import typer

from client.console import facts, or_json, out, plain, size_text, table
from client.errors import ConfigError
from client.local import run_core
from client.options import AsJson, named_values
from difffit_core.errors import SpecError
from difffit_core.methods.config import MethodConfig, named_method

KIND_NAMES = {
    "bias": "bias",
    "scale": "γ",
    "norm": "norm",
    "class_table": "class table",
    "weight": "module trained whole",
    "added": "added by the method",
}


def params(
    model: Annotated[
        str,
        typer.Option(
            help="dit-xl-2-256, dit-xl-2-512, sd-1.5-unet, sd-1.5-controlnet, pixart-xl-2-512, llama-7b, emoji-dit, …"
        ),
    ],
    method: Annotated[str, typer.Option(help="A method of POST /jobs, or lora-r8, lora-r16.")] = "difffit",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A setting of the method, such as preset=branches; repeatable."),
    ] = None,
    classes: Annotated[
        int | None, typer.Option(min=1, help="How many classes the dataset has; absent: the base's own.")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show what is trained by kind, and under which names.")] = False,
    as_json: AsJson = False,
) -> None:
    """Count what a method trains in a model, and the size of its adapter. Needs neither weights nor a server."""
    try:
        config = named_method(method, named_values(settings or []))
    except SpecError as error:
        raise ConfigError(error.message, code=error.code, param=error.param) from None
    counted = count(model, config, classes)
    if not verbose:
        del counted["groups"]
    present(counted, as_json)


def count(model: str, method: MethodConfig, classes: int | None) -> dict[str, Any]:
    """What `difffit_core.planning.counting` prints."""
    given = [] if classes is None else ["--classes", str(classes)]
    return run_core("difffit_core.planning.counting", [model, method.model_dump_json(), *given])


@or_json
def present(counted: dict[str, Any]) -> None:
    out.print(
        facts(
            [
                ("model", f"{plain(counted['model'])} ({counted['family']})"),
                ("method", counted["method"]["type"]),
                ("classes", counted["classes"]),
                ("parameters", f"{counted['total']:,}"),
                ("trained", f"[bold]{counted['trained']:,}[/] ({counted['percent']:g} %)"),
                ("adapter", size_text(counted["adapter_bytes"])),
            ]
        )
    )
    if "groups" in counted:
        kinds = [(KIND_NAMES[kind], f"{number:,}") for kind, number in counted["kinds"].items()]
        out.print(table(["kind", "#parameters"], kinds))
        groups = [(KIND_NAMES[g["kind"]], plain(g["name"]), g["tensors"], f"{g['parameters']:,}") for g in counted["groups"]]
        out.print(table(["kind", "name", "#tensors", "#parameters"], groups))
