"""The base of every model that reads what a user wrote. Torch-free."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Auto = Literal["auto"]
PositiveInt = Annotated[int, Field(strict=True, ge=1)]
Count = Annotated[int, Field(strict=True, ge=0)]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**53)]  # the integers that survive JSON in every language
Flag = Annotated[bool, Field(strict=True)]
ModulePath = Annotated[str, Field(min_length=1, max_length=200)]  # of a layer in a model, or the end of its path
ModulePaths = Annotated[list[ModulePath], Field(min_length=1, max_length=1000)]


class Strict(BaseModel):
    """A model that refuses unknown fields, infinities and NaN."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
