"""What can go wrong between a client and its server; part of the one error tree."""

from typing import Any

import httpx

from difffit_core.errors import DiffFitError


class ConfigError(DiffFitError):
    """The client does not know which server to talk to, or a local file is not what the command needs."""

    code = "invalid_configuration"


class UnreachableError(DiffFitError):
    """No answer came from the server, or not one of this service."""

    code = "cannot_reach_server"


class ApiError(DiffFitError):
    """The server refused a request: its own code, message and field, with the HTTP status and the request's id."""

    def __init__(self, message: str, *, code: str, param: str | None, status: int, request_id: str | None) -> None:
        super().__init__(message, code=code, param=param)
        self.status = status
        self.request_id = request_id


def error_of(response: httpx.Response) -> DiffFitError:
    """The exception for an answer that is no success; its body must have been read."""
    request_id = response.headers.get("x-request-id")
    try:
        error: dict[str, Any] = response.json()["error"]
        code, message = str(error["code"]), str(error["message"])
    except (ValueError, KeyError, TypeError):
        return UnreachableError(
            f"{response.url.copy_with(path='/')} answered with status {response.status_code} and not as a DiffFit server does. "
            "Check the URL, and any proxy between."
        )
    return ApiError(message, code=code, param=error.get("param"), status=response.status_code, request_id=request_id)
