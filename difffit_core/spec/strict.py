"""The base of every model that reads what a user wrote. Torch-free."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

Auto = Literal["auto"]
PositiveInt = Annotated[int, Field(strict=True, ge=1)]
Count = Annotated[int, Field(strict=True, ge=0)]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**53)]  # the integers that survive JSON in every language
Flag = Annotated[bool, Field(strict=True)]
ModulePath = Annotated[str, Field(min_length=1, max_length=200)]  # of a layer in a model, or the end of its path
ModulePaths = Annotated[list[ModulePath], Field(min_length=1, max_length=1000)]


MOST_FIELDS = 200  # of one object; the largest model has some thirty


class Strict(BaseModel):
    """A model that refuses unknown fields, infinities and NaN."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _count_fields(cls, given: Any) -> Any:
        """One finding instead of one for each unknown field: to explain thousands takes seconds."""
        if isinstance(given, dict) and len(given) > MOST_FIELDS:
            raise PydanticCustomError("too_many_fields", "an object of at most {most} fields", {"most": MOST_FIELDS})
        return given
