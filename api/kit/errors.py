"""The one error shape of the API, and the one place that decides which status a failure answers with."""

import logging
import re
from functools import cache
from typing import Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import iter_route_contexts
from sqlalchemy.exc import DataError, InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.kit.validation import explain
from difffit_core.errors import AdapterError, DatasetError, DiffFitError, ModelError, SpecError
from jobstore.kit.errors import ConflictError, InProgressError, NotFoundError, QuotaError, StorageError

logger = logging.getLogger(__name__)

ErrorType = Literal[
    "invalid_request",
    "authentication",
    "permission",
    "not_found",
    "conflict",
    "too_large",
    "rate_limited",
    "unavailable",
    "internal",
]


class BadRequestError(DiffFitError):
    """The request cannot be read at all."""

    code = "invalid_request"


class AuthenticationError(DiffFitError):
    """No key, or one that opens nothing."""

    code = "invalid_key"


class ForbiddenError(DiffFitError):
    """The key is good, but not for this."""

    code = "scope_missing"


class RequestTimeoutError(DiffFitError):
    """The client is too slow."""

    code = "request_timeout"


class NotAcceptableError(DiffFitError):
    """The answer cannot take the form that `Accept` asks for."""

    code = "not_acceptable"


class MediaTypeError(DiffFitError):
    """The body is of a kind that the route does not read."""

    code = "unsupported_media_type"


class PreconditionError(DiffFitError):
    """The client speaks another version of a protocol."""

    code = "unsupported_version"


class ChecksumError(DiffFitError):
    """What arrived is not what was sent."""

    code = "checksum_mismatch"


class TooLargeError(DiffFitError):
    """The body is larger than this server takes."""

    code = "body_too_large"


class UnavailableError(DiffFitError):
    """A server that this one needs is away."""

    code = "not_ready"


class GenerationFailedError(DiffFitError):
    """A worker could not make the picture that the request waits for."""

    code = "generation_failed"


AWAY_RETRY_SECONDS = 5  # as long as a server takes to be started again
STATUS: dict[type[DiffFitError], tuple[int, ErrorType]] = {
    BadRequestError: (400, "invalid_request"),
    AuthenticationError: (401, "authentication"),
    ForbiddenError: (403, "permission"),
    NotFoundError: (404, "not_found"),
    NotAcceptableError: (406, "invalid_request"),
    RequestTimeoutError: (408, "invalid_request"),
    ConflictError: (409, "conflict"),
    PreconditionError: (412, "invalid_request"),
    TooLargeError: (413, "too_large"),
    MediaTypeError: (415, "invalid_request"),
    SpecError: (422, "invalid_request"),
    DatasetError: (422, "invalid_request"),
    AdapterError: (422, "invalid_request"),
    QuotaError: (429, "rate_limited"),
    ChecksumError: (460, "invalid_request"),  # a number of the tus protocol
    StorageError: (503, "unavailable"),
    UnavailableError: (503, "unavailable"),
    DiffFitError: (500, "internal"),
}
HTTP_CODES: dict[int, tuple[str, str]] = {
    400: ("invalid_json", "The body cannot be read as JSON in UTF-8."),
    404: ("route_not_found", "There is no such route. The routes are listed at /docs."),
    405: ("method_not_allowed", "This route does not take this method. The routes are listed at /docs."),
}


# Connections that are refused or break, a transaction that stood still, and a pool whose connections all wait.
DATABASE_AWAY = (OperationalError, InterfaceError, InternalError, PoolTimeout)


def install_error_handlers(app: FastAPI) -> None:
    """Every exception of every kind ends in `answer`."""
    for kind in (DiffFitError, RequestValidationError, HTTPException, DataError, *DATABASE_AWAY, ClientDisconnect, Exception):
        app.add_exception_handler(kind, answer)


class Failures:
    """ASGI middleware: what other middleware raises is answered as what a route raises."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def noting(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, noting)
        except (DiffFitError, *DATABASE_AWAY) as error:
            if started:
                raise
            response = await answer(Request(scope), error)
            await response(scope, receive, send)


async def answer(request: Request, error: Exception) -> JSONResponse:
    """The response to any exception that a route, a dependency or the framework raises."""
    if isinstance(error, HTTPException):
        code, message = HTTP_CODES.get(error.status_code, ("http_error", str(error.detail)))
        kind: ErrorType = "not_found" if error.status_code == 404 else "invalid_request"
        response = error_response(request.scope, error.status_code, kind, DiffFitError(message, code=code))
        response.headers.update(error.headers or {})
        if error.status_code == 405:
            response.headers["allow"] = ", ".join(_allowed(request))
        return response
    return respond(request.scope, _as_difffit_error(request, error))


def _allowed(request: Request) -> list[str]:
    """The methods of all routes of this path: the framework names those of the first."""
    path, methods = request.scope["path"], set[str]()
    for context in iter_route_contexts(request.app.routes):
        if context.path and _pattern(context.path).match(path):
            methods |= set(context.methods or ())
    return sorted(methods)


@cache
def _pattern(template: str) -> re.Pattern[str]:
    """Of one of our own routes."""
    return compile_path(template)[0]


def respond(scope: Scope, error: DiffFitError) -> JSONResponse:
    """The response to a failure of our own tree; middleware calls it too."""
    status, kind = status_of(error)
    response = error_response(scope, status, kind, error)
    if status == 401:
        response.headers["www-authenticate"] = "Bearer"
    if status == 408:
        response.headers["connection"] = "close"  # the rest of the body would be taken for another request
    if isinstance(error, QuotaError | InProgressError):
        response.headers["retry-after"] = str(error.retry_after)
    elif status == 503:
        response.headers["retry-after"] = str(AWAY_RETRY_SECONDS)
    return response


def status_of(error: DiffFitError) -> tuple[int, ErrorType]:
    if isinstance(error, ModelError) and error.code in {"unknown_base_model", "base_model_missing"}:
        return 422, "invalid_request"  # the user's mistake; every other ModelError is the operator's
    return next(STATUS[cls] for cls in type(error).__mro__ if cls in STATUS)


def error_response(scope: Scope, status: int, kind: ErrorType, error: DiffFitError) -> JSONResponse:
    content = {"type": kind, "code": error.code, "message": _printable(error.message), "param": _printable(error.param)}
    # Set here and not only by the middleware: the answer to an unforeseen exception is sent outside of it.
    return JSONResponse({"error": content}, status, {"x-request-id": scope["state"]["request_id"]})


def database_away() -> UnavailableError:
    return UnavailableError("The database does not answer just now. Send the request again.", code="database_unavailable")


def _as_difffit_error(request: Request, error: Exception) -> DiffFitError:
    if isinstance(error, DiffFitError):
        return error
    if isinstance(error, RequestValidationError):
        if isinstance(error.body, bytes):
            return MediaTypeError("Send the body as JSON, with the header `content-type: application/json`.")
        if error.errors()[0]["type"] == "json_invalid":
            return BadRequestError(f"The body is not JSON: {error.errors()[0]['ctx']['error']}.", code="invalid_json")
        return explain(error, request.scope.get("route"))
    if isinstance(error, DataError):
        return SpecError("A text in the request has a character that cannot be stored, such as NUL.", code="invalid_value")
    if isinstance(error, DATABASE_AWAY):
        logger.warning("The database does not answer: %s", error)
        return database_away()
    if isinstance(error, ClientDisconnect):
        return BadRequestError("The client went away before the whole body had arrived.", code="client_disconnected")
    request_id = request.scope["state"]["request_id"]
    logger.error("Request %s failed: %s %s", request_id, request.method, request.url.path)
    return DiffFitError(f"The server failed. Its log has the reason under the request id {request_id}.")


def _printable(text: str | None) -> str | None:
    """Half surrogate pairs, which JSON can carry, cannot be sent as UTF-8."""
    return text and text.encode("utf-8", "replace").decode()
