"""Images and texts on request: the row is written and a worker woken; the request waits for it as long as it says."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Header, Response
from fastapi.responses import StreamingResponse
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from api.generations.prompts import LongPrompts, long_prompts
from api.generations.resolve import check_condition, condition_picture, find_model, generation_spec
from api.generations.schemas import GenerateRequest, GenerationView
from api.generations.texts import stream_texts
from api.kit.answers import Answers, errors, file_answer
from api.kit.auth import TenantId, WatchedKey
from api.kit.deletion import delete_generation
from api.kit.dependencies import Resources, ResourcesDep, Transaction, after_commit, owned, owned_rows
from api.kit.downloads import FileAnswer
from api.kit.errors import GenerationFailedError, NotAcceptableError
from api.kit.idempotency import Idempotent, created
from api.kit.keyring import KeyWatch
from api.kit.notifications import wait
from api.kit.prefer import LONGEST, RECHECK_SECONDS, wait_seconds
from difffit_core.spec.generation import TextGenerationSpec
from jobstore.kit.dispatch import wake
from jobstore.kit.ids import new_id
from jobstore.kit.tables import Adapter, Generation, Image, Tenant
from jobstore.tenants.quotas import limits_of, storage_full

router = APIRouter(prefix="/generate", tags=["images"])

PNG = "image/png"
EVENT_STREAM = "text/event-stream"
NOTHING_YET = "0"  # before the first event of a stream
ENDED = {"succeeded", "failed"}
ANSWERED: Answers = {
    201: {
        "model": GenerationView,
        "content": {PNG: {}, EVENT_STREAM: {}},
        "description": "It is done, or has failed",
    },
    202: {"model": GenerationView, "description": "Not made yet: look at `Location`"},
}


@router.post(
    "",
    status_code=201,
    response_model=GenerationView,
    dependencies=[Idempotent],
    responses=ANSWERED | errors(400, 404, 406, 409, 413, 415, 429),
)
async def generate(
    request: GenerateRequest,
    tenant: TenantId,
    key: WatchedKey,
    resources: ResourcesDep,
    response: Response,
    prefer: Annotated[str, Header(description="`wait=N`: answer when the images are made, after N seconds at most")] = "",
    accept: Annotated[
        str, Header(description="`image/png` answers the one image, `text/event-stream` a text word by word")
    ] = "",
) -> GenerationView | Response:
    """Images or texts from an adapter or a base model, `n` of each label or prompt. The same request gives the same bytes."""
    as_png = PNG in accept
    if as_png and len(request.labels or request.prompts or []) * request.n > 1:
        raise NotAcceptableError(
            "`Accept: image/png` answers one image: ask for one label or prompt and n=1, or accept JSON.", code="one_image_only"
        )
    seconds = wait_seconds(prefer, LONGEST if as_png else 0)
    generation_id, condition = new_id("gen"), await run_in_threadpool(condition_picture, request)
    async with _stored(resources, f"conditions/{generation_id}", condition) as condition_key:
        queue = partial(_queue, resources, request, tenant, accept, generation_id, condition_key, len(condition or b""))
        long = await resources.turns.run(queue)
        if long is not None:
            await resources.prompts.check(long)
            await resources.turns.run(queue, counted=True)
    if EVENT_STREAM in accept:
        return _stream(resources, key, generation_id, tenant, NOTHING_YET, 201)
    view = await _wait_for(resources, generation_id, tenant, seconds)
    if as_png and view.status in ENDED:
        return await resources.turns.run(_only_image, resources, view, tenant)
    response.status_code = 201 if view.status in ENDED else 202
    response.headers["location"] = f"/generate/{generation_id}"
    return view


@asynccontextmanager
async def _stored(resources: Resources, key: str, data: bytes | None) -> AsyncIterator[str | None]:
    """The key under which the data are kept, unless what needs them fails; None without data."""
    if data is None:
        yield None
        return
    await resources.in_store(resources.store.put_bytes, key, data)
    try:
        yield key
    except Exception:
        await resources.in_store(resources.store.delete, key)
        raise


def _queue(
    resources: Resources,
    request: GenerateRequest,
    tenant: str,
    accept: str,
    generation_id: str,
    condition_key: str | None,
    condition_bytes: int,
    counted: bool = False,
) -> LongPrompts | None:
    """Nothing is queued where there is something to be counted first: that it returns."""
    with resources.transaction() as session:
        model = find_model(session, resources, request, tenant)
        if PNG in accept and model.task == "instruction":
            raise NotAcceptableError("A language model makes no image: accept JSON.", code="no_image")
        if EVENT_STREAM in accept and model.task != "instruction":
            raise NotAcceptableError("Only texts come word by word: accept JSON.", code="no_text")
        spec = generation_spec(request, model)
        check_condition(request, condition_key)
        limits = limits_of(session.get_one(Tenant, tenant), resources.settings)
        if model.task != "instruction":
            free = resources.fullness.free_bytes(session, tenant, limits.storage_bytes)
            if free <= condition_bytes:
                raise storage_full(free)
        if not counted:
            resources.rates.check("generate_per_minute", tenant, limits.generate_per_minute)
            long = long_prompts(model.base, spec) if isinstance(spec, TextGenerationSpec) else None
            if long is not None:
                return long
        generation = Generation(
            id=generation_id,
            tenant_id=tenant,
            adapter_id=model.adapter and model.adapter.id,
            base_model=model.base.id,
            status="queued",
            condition_key=condition_key,
            condition_bytes=condition_bytes,
            parameters=spec.model_dump(mode="json"),
        )
        session.add(generation)
        created(session, f"/generate/{generation.id}")
        after_commit(session, partial(wake, "generate", generation.id))
    return None


async def _wait_for(resources: Resources, generation_id: str, tenant: str, seconds: float) -> GenerationView:
    deadline = time.monotonic() + seconds
    with resources.notifications.subscribe(("generation", generation_id)) as changed:
        while True:
            changed.clear()
            view = await resources.turns.run(_read, resources, generation_id, tenant)
            left = deadline - time.monotonic()
            if view.status in ENDED or left <= 0:
                return view
            await wait(changed, min(left, RECHECK_SECONDS))


def _read(resources: Resources, generation_id: str, tenant: str) -> GenerationView:
    with resources.sessions() as session:
        return _view(session, resources, owned(session, Generation, generation_id, tenant), tenant)


def _view(session: Session, resources: Resources, row: Generation, tenant: str) -> GenerationView:
    adapter = session.get(Adapter, row.adapter_id) if row.adapter_id else None  # it may have been deleted since
    base = resources.catalog.get(row.base_model)  # the operator may have taken it away
    names = adapter.class_names if adapter else base.class_names() if base and base.installed else []
    images = owned_rows(Image, tenant).where(Image.generation_id == row.id).order_by(Image.position)
    return GenerationView.of(row, names, list(session.scalars(images)))


def _only_image(resources: Resources, view: GenerationView, tenant: str) -> Response:
    if view.error is not None:
        raise GenerationFailedError(view.error.message, code=view.error.code, param=view.error.param)
    with resources.sessions() as session:
        image = owned(session, Image, view.images[0].id, tenant)
    return FileAnswer(resources.store, image.object_key, PNG, {"location": f"/generate/{view.id}"}, 201)


def _stream(resources: Resources, key: KeyWatch, generation_id: str, tenant: str, after: str, status: int = 200) -> Response:
    async def look() -> GenerationView:
        return await resources.turns.run(_read, resources, generation_id, tenant)

    async def stream() -> AsyncIterator[bytes]:
        with resources.notifications.subscribe(("generation", generation_id), ("key", key.key_id)) as changed:
            async for event in stream_texts(resources.texts, changed, key, look, after):
                yield event

    headers = {"location": f"/generate/{generation_id}", "cache-control": "no-cache", "x-accel-buffering": "no"}
    return StreamingResponse(stream(), status, headers, media_type=EVENT_STREAM)


@router.get(
    "/{generation_id}", response_model=GenerationView, responses=file_answer(EVENT_STREAM, "Word by word") | errors(404, 406)
)
def get_generation(
    generation_id: str,
    tenant: TenantId,
    key: WatchedKey,
    session: Transaction,
    resources: ResourcesDep,
    accept: Annotated[str, Header(description="`text/event-stream`: the words of a language model while they come")] = "",
    last_event_id: Annotated[str, Header(pattern=r"^[0-9]{1,19}(-[0-9]{1,19})?$")] = NOTHING_YET,
) -> GenerationView | Response:
    """One generation: its resolved parameters, and its images or texts when they are made."""
    row = owned(session, Generation, generation_id, tenant)
    if EVENT_STREAM not in accept:
        return _view(session, resources, row, tenant)
    if "max_tokens" not in row.parameters:
        raise NotAcceptableError("Only texts come word by word: accept JSON.", code="no_text")
    return _stream(resources, key, generation_id, tenant, last_event_id)


@router.delete("/{generation_id}", status_code=204, responses=errors(404))
def delete(generation_id: str, tenant: TenantId, session: Transaction, resources: ResourcesDep) -> None:
    """Delete a generation with its pictures and texts; one that is not made yet is never made."""
    delete_generation(session, owned(session, Generation, generation_id, tenant, alone=True), resources.store)
