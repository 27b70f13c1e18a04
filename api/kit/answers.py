"""What the answers of all routes share: the one error shape, pages of a list, and what a row gives to its view."""

import json
from collections.abc import Iterable
from typing import Any, Generic, TypeVar

from fastapi import Response
from pydantic import BaseModel, Field

from api.kit.errors import ErrorType

Item = TypeVar("Item")


class ErrorDetail(BaseModel):
    type: ErrorType
    code: str = Field(description="Stable: programs may compare it")
    message: str = Field(description="What happened and what to do")
    param: str | None = Field(description="The field it is about, as a dotted path")


class ErrorAnswer(BaseModel):
    error: ErrorDetail


ERRORS = {
    400: "The body cannot be read",
    401: "No key, or an unknown one",
    403: "The key's scope does not allow it",
    404: "There is no such thing for this key",
    406: "The answer cannot take the form asked for",
    408: "The body did not arrive in time",
    409: "The state of the thing forbids it",
    412: "The client speaks another version of the protocol",
    413: "The body is too large",
    415: "The body is of an unknown kind",
    422: "A field is wrong; `param` names it",
    429: "A limit of the tenant is reached; `param` names it and `Retry-After` says when to try again",
    460: "The checksum is another",
    500: "The server failed",
    503: "A part of the server is away",
}


Answers = dict[int | str, dict[str, Any]]  # of a route in OpenAPI, by status
REDIRECTED: Answers = {307: {"description": "The file is at `Location`, for some minutes and without a key"}}


def file_answer(media_type: str, description: str) -> Answers:
    return {200: {"content": {media_type: {}}, "description": description}}


def errors(*statuses: int) -> Answers:
    """The error statuses of a route; 401, 403, 422, 500 and 503 are every route's."""
    every = {401, 403, 422, 500, 503}
    return {status: {"model": ErrorAnswer, "description": ERRORS[status]} for status in sorted(every.union(statuses))}


class Listing(BaseModel, Generic[Item]):
    data: list[Item]
    has_more: bool


def long_answer(data: Iterable[BaseModel], *, exclude_none: bool = False, **more: Any) -> Response:
    """`{"data": […], …}` of items that may be long or many, for a route that runs in a thread.

    Written item by item, so that the event loop has its turns; what a route returns as a model is written there at once.
    """
    items = ",".join(item.model_dump_json(exclude_none=exclude_none) for item in data)
    rest = "".join(f",{json.dumps(name)}:{json.dumps(value)}" for name, value in more.items())
    return Response(f'{{"data":[{items}]{rest}}}', media_type="application/json")


class RowError(BaseModel):
    """Why a dataset, a job or a generation failed."""

    code: str
    message: str
    param: str | None = None


def columns(row: object, names: str) -> dict[str, Any]:
    """Those of a row that a view shows under the same name."""
    return {name: getattr(row, name) for name in names.split()}
