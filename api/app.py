"""The application factory, `create_app`; `python -m api` serves it."""

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version

from fastapi import FastAPI
from starlette.middleware import Middleware

from api.dependencies import Resources
from api.errors import Failures, install_error_handlers
from api.idempotency import Idempotency
from api.keyring import KeyRing
from api.limits import BodyLimits
from api.notifications import Notifications
from api.rates import Rates
from api.request_ids import RequestIds
from api.routes import (
    adapters,
    datasets,
    docs,
    evaluations,
    generate,
    health,
    images,
    job_outputs,
    jobs,
    keys,
    models,
    tenants,
    uploads,
    webhooks,
)
from api.security_headers import SecurityHeaders
from api.turns import DatabaseTurns
from api.tus import TusHeaders
from difffit_core.spec.catalog import load_catalog
from jobstore.database import make_engine, session_factory
from jobstore.objects import ObjectStore
from jobstore.settings import Settings, get_settings
from jobstore.text_stream import TextReader

DESCRIPTION = "Fine-tune generative models with DiffFit: upload a dataset, post a job, download an adapter, ask for images."

STREAMED = re.compile(r"POST /datasets|PATCH /uploads/[^/]+")  # routes that read, and limit, their bodies themselves


def create_app(settings: Settings | None = None) -> FastAPI:
    """The API with the settings given, or those of the environment."""
    settings = settings or get_settings()
    # To read a number takes the square of its digits. Ours have twenty at most; a lower limit Python does not allow.
    sys.set_int_max_str_digits(640)
    app = FastAPI(
        title="DiffFit",
        version=version("difffit"),
        description=DESCRIPTION,
        lifespan=lambda app: _resources(app, settings),
        redirect_slashes=False,
        openapi_url=None,  # see routes.docs
        docs_url=None,
        redoc_url=None,
        middleware=[
            Middleware(RequestIds),
            Middleware(SecurityHeaders),
            Middleware(TusHeaders),
            Middleware(Failures),
            Middleware(BodyLimits, max_bytes=settings.max_json_bytes, seconds=settings.request_seconds, streamed=STREAMED),
            Middleware(Idempotency),
        ],
    )
    install_error_handlers(app)
    # Routes are tried in this order: first those that are asked for most.
    for module in (
        jobs,
        datasets,
        uploads,
        models,
        job_outputs,
        adapters,
        evaluations,
        generate,
        images,
        keys,
        tenants,
        webhooks,
        health,
        docs,
    ):
        app.include_router(module.router)
    app.include_router(tenants.usage_router)
    app.include_router(uploads.abilities)
    return app


@asynccontextmanager
async def _resources(app: FastAPI, settings: Settings) -> AsyncIterator[None]:
    """What lives as long as the process. Servers that are away keep nothing from starting: /readyz tells."""
    url, seconds = settings.database_url.get_secret_value(), settings.database_seconds
    engine, looking = (make_engine(url, reading, answer_seconds=seconds) for reading in (False, True))
    sessions, turns = session_factory(engine), DatabaseTurns(seconds)
    keyring = KeyRing(sessions, turns)
    notifications = Notifications(url, keyring)
    app.state.resources = Resources(
        settings=settings,
        sessions=sessions,
        reading=session_factory(looking),
        store=ObjectStore(settings.storage_url, signed=settings.signed_urls),
        catalog=load_catalog(settings.models, settings.models_dir),
        notifications=notifications,
        keyring=keyring,
        rates=Rates(settings.redis_url.get_secret_value()),
        texts=TextReader(settings.redis_url.get_secret_value()),
        turns=turns,
    )
    listening = asyncio.create_task(notifications.run())
    try:
        yield
    finally:
        listening.cancel()
        with suppress(asyncio.CancelledError):
            await listening
        await app.state.resources.texts.close()
        app.state.resources.prompts.close()
        engine.dispose()
        looking.dispose()
