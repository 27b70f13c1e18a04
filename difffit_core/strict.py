"""The base of every model that reads what a user wrote. Torch-free."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Auto = Literal["auto"]
PositiveInt = Annotated[int, Field(strict=True, ge=1)]
Count = Annotated[int, Field(strict=True, ge=0)]


class Strict(BaseModel):
    """A model that refuses unknown fields, infinities and NaN."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
