"""What datasets and uploads show."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from api.kit.answers import RowError, columns
from difffit_core.tasks.config import Frame, Holding
from jobstore.kit import tables


class DatasetView(BaseModel):
    id: str
    name: str
    status: Literal["checking", "ready", "failed", "deleted"]
    format: str | None = Field(description="The layout that the upload named; null: the one that is recognised, see `report`")
    bytes: int = Field(description="Of the upload")
    examples: int | None = Field(description="Kept; null until the dataset is checked")
    classes: dict[str, int] | None = Field(description='Examples of each class; of the class "" where they have none')
    holds: list[Holding] | None = Field(description="What every example has, such as file, label, caption, condition, messages")
    frame: Frame | None = Field(description="Of texts: what their prompts are written for, see `frame` of the task")
    sha256: str | None = Field(description="Of the checked content: equal content, equal hash")
    report: dict[str, Any] | None = Field(description="What was kept, what was refused and why, duplicates, sizes")
    error: RowError | None
    created_at: datetime
    finished_at: datetime | None

    @classmethod
    def of(cls, row: tables.Dataset) -> "DatasetView":
        return cls.model_validate(
            columns(row, "id name status format classes holds frame sha256 report error created_at finished_at")
            | {"bytes": row.upload_bytes, "examples": None if row.classes is None else sum(row.classes.values())}
        )


class UploadView(BaseModel):
    id: str
    name: str = Field(description="Of the dataset that it will be")
    offset: int = Field(description="Bytes that have arrived")
    length: int
    created_at: datetime
    expires_at: datetime = Field(description="Unless more arrives")

    @classmethod
    def of(cls, row: tables.Upload) -> "UploadView":
        return cls.model_validate(columns(row, "id name offset length created_at expires_at"))


class SignedUpload(BaseModel):
    url: str = Field(description="PUT all bytes here, without a key; then make the dataset")
    expires_at: datetime = Field(description="Until then a PUT can begin")
