"""Turns pydantic's findings into one error: a dotted path without union tags, a stable code, and what is allowed."""

import difflib
import json
from collections.abc import Iterator
from typing import Any, get_args

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel

from difffit_core.errors import SpecError

# Choices that have a code of their own.
UNKNOWN_CHOICE = {"method.type": "unknown_method", "scheduler": "unknown_scheduler", "format": "unknown_format"}
ALLOWED = {
    "greater_than": "above {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "below {lt}",
    "less_than_equal": "at most {le}",
    "literal_error": "{expected}",
    "union_tag_invalid": "one of {expected_tags}",
    "finite_number": "a finite number",
    "float_type": "a number",
    "float_parsing": "a number",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "string_type": "a string",
    "string_unicode": "a string that is valid Unicode",
    "string_too_short": "at least {min_length} characters long",
    "string_too_long": "at most {max_length} characters long",
    "string_pattern_mismatch": "of the form {pattern}",
    "list_type": "a list",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
    "model_type": "a JSON object",
    "model_attributes_type": "a JSON object",
}

SHOWN = 60  # characters of what was sent; longer texts are neither shown nor compared with what is known
SHOWN_PATH = 200

Path = list[str | int]


def explain(error: RequestValidationError, route: object) -> SpecError:
    """The first wrong field; where it may be one of several kinds (a number or "auto"), what each kind allows."""
    findings = list(error.errors())
    path, tags = _field(findings[0], error.body)
    alike = [finding for finding in findings if _field(finding, error.body)[0] == path]
    return _one_error(alike, path, _known_fields(route, path, tags))


def _field(finding: dict[str, Any], body: Any) -> tuple[Path, set[str]]:
    """Where the finding is, split into the keys that the user wrote and the union tags that pydantic put between them."""
    where, *location = finding["loc"]
    if where != "body":
        return location[:1], set()
    path: Path = []
    tags: set[str] = set()
    node = body
    for position, segment in enumerate(location, start=1):
        if (isinstance(node, dict) and segment in node) or (isinstance(node, list) and isinstance(segment, int)):
            node = node[segment]
            path.append(segment)
        elif finding["type"] == "missing" and position == len(location):
            path.append(segment)
        else:
            tags.add(str(segment))
    if finding["type"].startswith("union_tag"):
        path.append(finding["ctx"]["discriminator"].strip("'"))
    return path, tags


def _one_error(findings: list[dict[str, Any]], path: Path, known: list[str]) -> SpecError:
    kind, param = findings[0]["type"], _joined(path)
    if kind in {"missing", "union_tag_not_found"}:
        if param is None:
            return SpecError("The request has no body. Send a JSON object.", code="missing_body")
        return SpecError(f"`{param}` is missing.", code="missing_field", param=param)
    if kind == "extra_forbidden":
        name = str(path[-1])
        near = difflib.get_close_matches(name, known, n=1) if len(name) <= SHOWN else []
        hint = f"Did you mean `{near[0]}`? " if near else ""
        listed = f"{hint}Known here: {', '.join(known)}." if known else "Leave it out."
        return SpecError(f"`{param}` is not a known field. {listed}", code="unknown_field", param=param)
    allowed = " or ".join(dict.fromkeys(_allowed(finding) for finding in findings))
    code = "invalid_value"
    if kind in {"literal_error", "union_tag_invalid"}:
        code = UNKNOWN_CHOICE.get(param or "", code)
    shown = _shown(findings[0]["ctx"]["tag"] if kind == "union_tag_invalid" else findings[0].get("input"))
    return SpecError(f"`{param or 'The body'}` must be {allowed}{shown}.", code=code, param=param)


def _joined(path: Path) -> str | None:
    text = ".".join(str(segment)[: SHOWN_PATH + 1] for segment in path)
    return (text if len(text) <= SHOWN_PATH else f"{text[:SHOWN_PATH]}…") or None


def _allowed(finding: dict[str, Any]) -> str:
    template = ALLOWED.get(finding["type"])
    context = {key: f"{value:g}" if isinstance(value, float) else value for key, value in finding.get("ctx", {}).items()}
    return template.format(**context) if template else str(finding["msg"])


def _shown(value: Any) -> str:
    """What was sent, where it is short enough to be shown."""
    if isinstance(value, dict | list) or (isinstance(value, str) and len(value) > SHOWN):
        return ""
    text = json.dumps(value, default=str)
    return f", not {text}" if len(text) <= SHOWN else ""


def _known_fields(route: object, path: Path, tags: set[str]) -> list[str]:
    """The fields of the model that holds the last key of `path` in the route's body; empty for query parameters."""
    field = getattr(route, "body_field", None)
    models = list(_models(field.field_info.annotation)) if field is not None else []
    for segment in path[:-1]:
        fields = [model.model_fields[segment] for model in models if segment in model.model_fields]
        models = [model for field in fields for model in _models(field.annotation)]
    chosen = [m for m in models if "type" in m.model_fields and tags & set(get_args(m.model_fields["type"].annotation))]
    return sorted({name for model in chosen or models for name in model.model_fields})


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Every pydantic model that an annotation such as `A | B | None` names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)
