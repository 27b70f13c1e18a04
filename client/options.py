"""Options that stand on many commands, and how `NAME=VALUE` is read."""

import json
from typing import Annotated, Any

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout; progress still goes to stderr.")]
Limit = Annotated[int, typer.Option(min=1, max=100, help="How many rows, newest first.")]
After = Annotated[str | None, typer.Option(metavar="ID", help="Continue a list after this id.")]


def named_values(settings: list[str], option: str = "--set") -> dict[str, Any]:
    """`["steps=300", "lr_schedule=cosine"]` as a JSON object; whether a value fits is the server's to say."""
    values: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not name or not equals:
            raise typer.BadParameter(f"{setting!r} is not of the form NAME=VALUE, such as steps=300.", param_hint=option)
        values[name] = json_value(text)
    return values


def json_value(text: str) -> Any:
    """A number, true or false where the text is one in JSON, otherwise the text."""
    try:
        return json.loads(text, parse_constant=str)  # NaN and Infinity are no JSON; the server refuses them by name
    except ValueError:
        return text
