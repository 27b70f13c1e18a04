"""What the exports of adapters show."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel

from api.kit.answers import columns
from jobstore.kit import tables


class ExportView(BaseModel):
    id: str
    adapter: str
    format: Literal["peft", "merged"]
    status: Literal["queued", "running"]
    created_at: datetime

    @classmethod
    def of(cls, row: tables.Export) -> "ExportView":
        return cls.model_validate(columns(row, "id format status created_at") | {"adapter": row.adapter_id})
