"""Failures that the job store adds to the one error tree."""

from difffit_core.errors import DiffFitError


class NotFoundError(DiffFitError):
    """There is no such row for this tenant; rows of other tenants answer the same."""

    code = "not_found"


class ConflictError(DiffFitError):
    """The row exists, but its state forbids what was asked."""

    code = "conflict"


class InProgressError(ConflictError):
    """The same request is being carried out already. Sent again after `retry_after` seconds it may find the answer."""

    code = "idempotency_key_in_use"
    retry_after = 1


class QuotaError(DiffFitError):
    """A limit of the tenant is reached; `param` names it. The same request may succeed after `retry_after` seconds."""

    code = "quota_exceeded"

    def __init__(self, message: str, *, code: str, param: str, retry_after: int) -> None:
        super().__init__(message, code=code, param=param)
        self.retry_after = retry_after


class StorageError(DiffFitError):
    """The object store does not have a file, or cannot be reached."""

    code = "storage_error"


class EmbeddedServerError(DiffFitError):
    """An embedded server cannot be started; the message names the reason and the log."""

    code = "embedded_server_failed"
