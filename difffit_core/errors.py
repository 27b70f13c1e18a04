"""The one error tree: every failure a user can cause or meet carries a code, a message that says what to do, and the field."""


class DiffFitError(Exception):
    """A failure with a stable `code` for programs, a `message` for people and the offending field in `param`."""

    code = "internal_error"

    def __init__(self, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.code
        self.param = param

    def reason(self) -> dict[str, str | None]:
        """The failure as documents and rows carry it."""
        return {"code": self.code, "message": self.message, "param": self.param}


class SpecError(DiffFitError):
    """A job spec or generation request asks for something that cannot be done."""

    code = "invalid_spec"


class DatasetError(DiffFitError):
    """A dataset cannot be read or cannot be trained on."""

    code = "invalid_dataset"


class ModelError(DiffFitError):
    """A base model is unknown, missing or not what its files say."""

    code = "invalid_model"


class AdapterError(DiffFitError):
    """An adapter file is damaged, incomplete or made for another base."""

    code = "invalid_adapter"


class TrainingDiverged(DiffFitError):
    """The loss is no longer a number."""

    code = "diverged"
