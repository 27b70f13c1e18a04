"""Cursor pages: `after` is the id of the last item seen, `has_more` says whether another page follows."""

from typing import Annotated, Any, TypeVar

from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Select
from sqlalchemy.orm import Session

from jobstore.kit.errors import NotFoundError
from jobstore.kit.ids import Prefix, is_id
from jobstore.kit.tables import (
    Adapter,
    ApiKey,
    Checkpoint,
    Dataset,
    Delivery,
    Evaluation,
    Generation,
    Image,
    Job,
    Tenant,
    Webhook,
)

Row = TypeVar("Row", Dataset, Job, Adapter, Generation, Evaluation, Image, Checkpoint, ApiKey, Tenant, Webhook, Delivery)

PREFIXES: dict[type[Any], Prefix] = {
    Dataset: "ds",
    Job: "job",
    Adapter: "ad",
    Generation: "gen",
    Evaluation: "eval",
    Image: "img",
    Checkpoint: "ck",
    ApiKey: "key",
    Tenant: "ten",
    Webhook: "wh",
    Delivery: "msg",
}
Limit = Annotated[int, Field(ge=1, le=100, description="Most items in the page")]


class PageParams(BaseModel):
    model_config = ConfigDict(extra="forbid")

    after: str | None = Field(None, pattern=r"^[a-z]+_[0-9a-z]+$", description="The id of the last item of the page before")
    limit: Limit = 20


PageQuery = Annotated[PageParams, Query()]


def page_of(
    session: Session, rows: Select[Row], model: type[Row], page: PageParams, known: Select[Row] | None = None
) -> tuple[list[Row], bool]:
    """One page, newest first, and whether there is another. Raises NotFoundError where `after` is no id of these rows.

    `known`, if given, are all rows that there ever were: those that were deleted while the pages are turned count as well. Of
    rows that leave nothing behind any id of their kind does.
    """
    if page.after is not None:
        like_them = known is None or session.scalar(known.where(model.id == page.after)) is not None
        if not (like_them and is_id(page.after, PREFIXES[model])):
            raise NotFoundError(
                f"{page.after[:80]!r} is none of the ids in this list. Send the last one of the page before.",
                code="unknown_cursor",
                param="after",
            )
        rows = rows.where(model.id < page.after)
    return cut(list(session.scalars(rows.order_by(model.id.desc()).limit(page.limit + 1))), page.limit)


def cut(rows: list[Any], limit: int) -> tuple[list[Any], bool]:
    """`limit` rows of a query that asked for one more."""
    return rows[:limit], len(rows) > limit
